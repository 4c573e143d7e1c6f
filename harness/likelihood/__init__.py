"""Loglikelihood of texts and continuations, exact in bytes whatever the tokenizer."""
