"""Tokenizers at the level of bytes: token tables, special tokens, roles, chat templates and alignment."""
