"""Training: the loop, its options and log, the windows of text, and the cache of teacher outputs."""
