"""Log-likelihood of texts and continuations, comparable across tokenizers because it is measured in bytes."""
