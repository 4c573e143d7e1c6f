"""Resource limits alone, without any wall: for the harness's own development, and only on explicit request."""

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
    """Ordinary processes of the calling user: programs can read, write and connect as that user can."""

    name = "process"

    needs_trial = False
    hint = "Never run programs of unknown origin here."

    def promise(self) -> BackendReport:
        """Return the report: works wherever Python does, and guarantees next to nothing."""
        return BackendReport(
            self.name,
            available=True,
            guarantees=frozenset({"memory"}),
            missing=("files", "net", "pid", "ipc", "seccomp"),
            hint=self.hint,
        )

    def start(self, slot: int, packages: Sequence[str]) -> WorkerProcess:
        """Start a worker without walls."""
        del slot
        return spawn(worker_command(), worker_config(self.name, os.geteuid(), package_paths(packages), packages))
