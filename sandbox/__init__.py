"""Runs untrusted programs and returns verdicts that they cannot forge; knows nothing of models or tasks."""

from sandbox.backends.backend import BackendReport
from sandbox.calibration import Calibration, Requirement, calibrate
from sandbox.inlet import Inlet
from sandbox.pool import Pool, open_pool, probe
from sandbox.program import Limits, Mode, Program
from sandbox.verdict import Status, Verdict

__all__ = [
    "BackendReport",
    "Calibration",
    "Inlet",
    "Limits",
    "Mode",
    "Pool",
    "Program",
    "Requirement",
    "Status",
    "Verdict",
    "calibrate",
    "open_pool",
    "probe",
]
