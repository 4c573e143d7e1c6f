"""Benchmarks of the likelihood of plain text."""
