"""Selection of a sandbox backend: trial runs, reports of what works on this machine, and pools on a working backend."""

import logging

from crosstok.errors import UserError, unknown_name
from crosstok.sandbox.backends.backend import Backend, BackendReport
from crosstok.sandbox.backends.bubblewrap import Bubblewrap
from crosstok.sandbox.backends.docker import Docker
from crosstok.sandbox.backends.namespaces import Namespaces
from crosstok.sandbox.backends.process import Process
from crosstok.sandbox.pool import Pool
from crosstok.sandbox.program import Program
from crosstok.sandbox.verdict import Status

_log = logging.getLogger(__name__)

BACKENDS: dict[str, type[Backend]] = {backend.name: backend for backend in (Bubblewrap, Namespaces, Docker, Process)}
"""All backends, in the order in which ``auto`` tries them; ``auto`` never selects ``process``."""


def probe() -> list[BackendReport]:
    """Report what each backend can guarantee on this machine."""
    return [report(backend()) for backend in BACKENDS.values()]


def report(backend: Backend) -> BackendReport:
    """Check the backend's preconditions, run its trial, and report what it can guarantee on this machine."""
    unmet = backend.unmet_precondition()
    if unmet is not None:
        return unmet
    if backend.needs_trial and (fault := trial(backend)):
        return backend.unavailable(fault)
    return backend.promise()


def trial(backend: Backend) -> str:
    """Have one worker judge a correct and an incorrect program; return what went wrong, or an empty string."""
    right = Program("right", "def one():\n    return 1\n", "assert one() == 1\n", "one")
    wrong = Program("wrong", "def one():\n    return 2\n", "assert one() == 1\n", "one")
    pool_log = logging.getLogger(Pool.__module__)
    level, pool_log.level = pool_log.level, logging.CRITICAL  # here a failure is an answer, not worth a warning
    try:
        with Pool(backend, BackendReport(backend.name, available=True, guarantees=frozenset()), 1) as workers:
            verdicts = {verdict.id: verdict for verdict in workers.run([right, wrong])}
    except OSError as fault:
        return str(fault)
    finally:
        pool_log.level = level
    if verdicts["right"].status is Status.PASSED and verdicts["wrong"].status is Status.FAILED:
        return ""
    return verdicts["right"].error or verdicts["wrong"].error or "the control programs received wrong verdicts"


def open_pool(backend: str = "auto", workers: int = 2, *, unsafe: bool = False) -> Pool:
    """Return a pool of ``workers`` warm workers, to be used as a context manager.

    ``auto`` selects the first of bubblewrap, namespaces and docker that works on this machine. ``process`` does not
    isolate programs and requires ``unsafe=True``. Raises UserError if no backend works, or if the named one does not;
    there is no silent fallback.
    """
    if workers < 1:
        raise UserError(f"A sandbox needs at least one worker, not {workers}.")
    if backend == "auto":
        reports = []
        for kind in BACKENDS.values():
            if kind is Process:
                continue
            candidate = kind()
            reports.append(report(candidate))
            if reports[-1].available:
                return Pool(candidate, reports[-1], workers)
        faults = "; ".join(f"{one.name}: {', '.join(one.missing)}" for one in reports)
        raise UserError(f"No sandbox works on this machine ({faults}).", hint=reports[-1].hint)
    if backend not in BACKENDS:
        raise unknown_name("sandbox backend", backend, BACKENDS)
    if backend == Process.name:
        if not unsafe:
            raise UserError(
                "The backend 'process' does not isolate programs.", hint="Add --unsafe if you trust the programs."
            )
        _log.warning("Sandbox backend 'process': programs run unisolated, with your permissions.")
    chosen = BACKENDS[backend]()
    found = report(chosen)
    if not found.available:
        raise UserError(f"The sandbox {backend!r} does not work here: {', '.join(found.missing)}.", hint=found.hint)
    return Pool(chosen, found, workers)
