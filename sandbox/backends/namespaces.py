"""Linux namespaces through plain system calls: no program to install, no daemon, no root needed."""

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
"""Host uids that workers of root's run under, one per worker: above the users of every distribution, below nobody."""


class Namespaces(Backend):
    """Workers in user, mount, PID, network, IPC, UTS and cgroup namespaces."""

    name = "namespaces"

    hint = (
        "Allow user namespaces (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone, "
        "kernel.apparmor_restrict_unprivileged_userns=0), or use Docker."
    )

    def promise(self) -> BackendReport:
        """Return the report of a fully isolating backend."""
        return walled(self.name)

    def start(self, slot: int, packages: Sequence[str]) -> WorkerProcess:
        """Start a worker that builds its own jail."""
        return spawn(worker_command(), worker_config(self.name, host_uid(slot), package_paths(packages), packages))


def host_uid(slot: int) -> int:
    """Return the host uid of a worker: this user, or one that owns nothing where this user is root."""
    return FIRST_UID + slot % 1024 if os.geteuid() == 0 else os.geteuid()


def walled(name: str) -> BackendReport:
    """Return the report of a backend that has the whole jail, with or without control groups around it."""
    total = memory_total()
    return BackendReport(
        name,
        available=True,
        guarantees=GUARANTEES | total,
        missing=() if total else ("memory-total: no control group may be made",),
        hint="" if total else "Run under systemd-run --user --scope -p Delegate=yes, or as root.",
    )
