"""Backend ``process``: resource limits without isolation; for development of the harness, on explicit request only."""

import os
from collections.abc import Sequence

from crosstok.sandbox.backends.backend import (
    Backend,
    BackendReport,
    WorkerProcess,
    spawn,
    worker_command,
    worker_config,
)
from crosstok.sandbox.packages import package_paths


class Process(Backend):
    """Ordinary processes of the calling user; programs have all permissions of that user."""

    name = "process"

    needs_trial = False
    hint = "Never run programs of unknown origin here."

    def promise(self) -> BackendReport:
        """Return the report: available everywhere, with a memory limit per process as the only guarantee."""
        return BackendReport(
            self.name,
            available=True,
            guarantees=frozenset({"memory"}),
            missing=("files", "net", "pid", "ipc", "seccomp"),
            hint=self.hint,
        )

    def start(self, slot: int, packages: Sequence[str]) -> WorkerProcess:
        """Start an unisolated worker."""
        del slot
        return spawn(worker_command(), worker_config(self.name, os.geteuid(), package_paths(packages), packages))
