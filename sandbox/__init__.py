"""Sandbox for untrusted programs, with verdicts that a program cannot forge. Independent of models and tasks."""

from crosstok.sandbox.backends.backend import BackendReport
from crosstok.sandbox.calibration import Calibration, Requirement, calibrate
from crosstok.sandbox.pool import Pool
from crosstok.sandbox.program import Limits, Mode, Program
from crosstok.sandbox.program_queue import ProgramQueue
from crosstok.sandbox.selection import open_pool, probe
from crosstok.sandbox.verdict import Status, Verdict

__all__ = [
    "BackendReport",
    "Calibration",
    "Limits",
    "Mode",
    "Pool",
    "Program",
    "ProgramQueue",
    "Requirement",
    "Status",
    "Verdict",
    "calibrate",
    "open_pool",
    "probe",
]
