"""lm-eval both ways: its tasks on this engine, and this engine as a model of lm-eval."""
