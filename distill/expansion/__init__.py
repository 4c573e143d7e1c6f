"""Vocabulary expansion: selection of tokens, expanded tokenizers, and training of the new rows alone."""
