"""Isolation backends behind one interface (:mod:`crosstok.sandbox.backends.backend`)."""
