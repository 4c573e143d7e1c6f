"""Benchmarks of code generation, judged by running the answers."""
