"""lm-eval and crosstok, both ways: its tasks answered by our engine, our models for its command."""
