"""Readings: the quantities that a loss may request from a forward pass, and divergences between them."""
