"""Models on disk and in memory: checkpoints, weights, output heads, adapters and provenance."""
