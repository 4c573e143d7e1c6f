"""Benchmarks: their documents, requests, stop strings and scoring rules."""
