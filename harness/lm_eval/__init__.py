"""Integration with lm-eval: its tasks on crosstok's engine, and crosstok as a model of lm-eval."""
