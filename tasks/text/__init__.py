"""Benchmarks of plain text, judged by likelihood."""
