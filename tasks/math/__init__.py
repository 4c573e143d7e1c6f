"""Benchmarks whose answers are mathematical expressions."""
