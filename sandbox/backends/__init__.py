"""The ways in which a worker is walled in, behind one interface (:mod:`crosstok.sandbox.backends.backend`)."""
