"""Backend ``namespaces``: Linux namespaces through plain system calls; needs no program, no daemon and no root."""

import os
from collections.abc import Sequence

from crosstok.sandbox.backends.backend import (
    Backend,
    BackendReport,
    WorkerProcess,
    memory_total,
    spawn,
    worker_command,
    worker_config,
)
from crosstok.sandbox.packages import package_paths

GUARANTEES = frozenset({"files", "net", "pid", "ipc", "seccomp", "processes", "memory"})
FIRST_UID = 61440
"""First of the 1,024 host uids for workers started by root: above regular users of all distributions, below nobody."""


class Namespaces(Backend):
    """Workers in user, mount, PID, network, IPC, UTS and cgroup namespaces."""

    name = "namespaces"

    hint = (
        "Allow user namespaces (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone, "
        "kernel.apparmor_restrict_unprivileged_userns=0), or use Docker."
    )

    def promise(self) -> BackendReport:
        """Return the report of a fully isolating backend."""
        return isolated_report(self.name)

    def start(self, slot: int, packages: Sequence[str]) -> WorkerProcess:
        """Start a worker that isolates itself."""
        return spawn(worker_command(), worker_config(self.name, host_uid(slot), package_paths(packages), packages))


def host_uid(slot: int) -> int:
    """Return the host uid of a worker: that of this user, or an unused one if this user is root."""
    return FIRST_UID + slot % 1024 if os.geteuid() == 0 else os.geteuid()


def isolated_report(name: str) -> BackendReport:
    """Return the report of a backend with full isolation, with or without control groups."""
    total = memory_total()
    return BackendReport(
        name,
        available=True,
        guarantees=GUARANTEES | total,
        missing=() if total else ("memory-total: this user cannot create control groups",),
        hint="" if total else "Run under systemd-run --user --scope -p Delegate=yes, or as root.",
    )
