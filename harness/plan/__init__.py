"""Suites, and the plan of models and cells that a suite asks for."""
