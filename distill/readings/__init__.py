"""Readings: what a loss may ask of a forward pass, and the divergences between two readings."""
