"""Models on disk and in memory: checkpoints, weights, output heads, LoRA adapters and provenance."""
