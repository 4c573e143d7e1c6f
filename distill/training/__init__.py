"""The training loop, its options, log, windows and caches."""
