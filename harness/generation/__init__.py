"""Text generation: continuous batching, sampling, stop strings and byte budgets."""
