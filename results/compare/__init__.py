"""Paired comparison of models: intervals, tests, seeds, ensembles and baselines."""
