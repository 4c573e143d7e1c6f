"""Tokenizers as bytes: tables of tokens, special tokens, roles, chat templates and alignment."""
