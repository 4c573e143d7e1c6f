"""Text generation with continuous batching, sampling, stop strings and byte budgets."""
