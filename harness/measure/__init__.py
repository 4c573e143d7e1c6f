"""Measuring cells: requests to a model, judgement of its answers, storage of both."""
