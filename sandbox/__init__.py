"""Runs untrusted programs and returns verdicts that they cannot forge; knows nothing of models or tasks."""

from crosstok.sandbox.backends.backend import BackendReport
from crosstok.sandbox.calibration import Calibration, Requirement, calibrate
from crosstok.sandbox.pool import Pool
from crosstok.sandbox.program import Limits, Mode, Program
from crosstok.sandbox.program_queue import Inlet
from crosstok.sandbox.selection import open_pool, probe
from crosstok.sandbox.verdict import Status, Verdict

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
