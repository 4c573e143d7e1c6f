"""The ways in which a worker is walled in, behind one interface (:mod:`sandbox.backends.backend`)."""
