"""Properties of the machine and of a loaded model: memory, padding, inputs, operations."""
