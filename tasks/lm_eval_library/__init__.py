"""The benchmarks of lm-eval's library as tasks of ours: its definitions, our data rule."""
