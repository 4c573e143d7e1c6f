"""Vocabulary expansion: choosing tokens, a tokenizer with them, and rows that learn while all others stand still."""
