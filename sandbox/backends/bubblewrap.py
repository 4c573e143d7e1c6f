"""Backend ``bubblewrap``: the outer isolation is built by bwrap, a widely audited program; the inner one by the worker.

The worker still creates a user namespace inside, so a policy that denies user namespaces to everything started by bwrap
disables this backend too; the report says so. The root file system is the same as that of the namespaces backend.
Started by root, bwrap creates no user namespace but leaves the worker the two capabilities with which it switches to an
unused host uid.
"""

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from crosstok.sandbox.backends.backend import (
    FOLDER,
    Backend,
    BackendReport,
    WorkerProcess,
    spawn,
    worker_command,
    worker_config,
)
from crosstok.sandbox.backends.namespaces import host_uid, isolated_report
from crosstok.sandbox.packages import package_paths
from crosstok.sandbox.worker import jail


class Bubblewrap(Backend):
    """Workers started by bwrap."""

    name = "bubblewrap"

    hint = "Use the namespaces backend, which needs no program and gives the same guarantees."

    def unmet_precondition(self) -> BackendReport | None:
        """Look for bwrap on the PATH."""
        if shutil.which("bwrap"):
            return None
        return self.unavailable(
            "the program bwrap is not installed",
            "Install bubblewrap (apt install bubblewrap, dnf install bubblewrap).",
        )

    def promise(self) -> BackendReport:
        """Return the report of a fully isolating backend."""
        return isolated_report(self.name)

    def start(self, slot: int, packages: Sequence[str]) -> WorkerProcess:
        """Start a worker inside bwrap."""
        paths = package_paths(packages)
        accounts = {path: _memory_file(text) for path, text in jail.ACCOUNTS.items()}
        try:
            return spawn(
                [*_command(accounts, paths), *worker_command()],
                worker_config(self.name, host_uid(slot), paths, packages),
                descriptors=list(accounts.values()),
            )
        finally:
            for descriptor in accounts.values():
                os.close(descriptor)


def _command(accounts: dict[str, int], packages: list[str]) -> list[str]:
    root = jail.interpreter_root(packages)
    # A full path: the worker's environment has a PATH of its own, in which Popen would search.
    command = [
        shutil.which("bwrap") or "bwrap",
        "--unshare-pid",
        "--unshare-net",
        "--unshare-ipc",
        "--unshare-uts",
        "--unshare-cgroup-try",
    ]
    command += ["--die-with-parent", "--new-session"]
    if os.geteuid() == 0:
        command += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    else:
        command += ["--unshare-user", "--uid", str(jail.INSIDE_ID), "--gid", str(jail.INSIDE_ID)]
    command += _read_only([*root.folders, str(FOLDER / "worker")])
    command += _repeated("--tmpfs", root.masked)
    command += _read_only(root.packages, jail.visible_at)
    command += _repeated("--remount-ro", root.masked)
    for link, target in root.links.items():
        command += ["--symlink", target, link]
    command += ["--tmpfs", "/dev", "--symlink", "/tmp/.shm", "/dev/shm", "--symlink", "/proc/self/fd", "/dev/fd"]
    for device in jail.DEVICES:
        command += ["--dev-bind", f"/dev/{device}", f"/dev/{device}"]
    # As in the namespaces backend: the kernel mounts a new /proc only while a complete one is visible.
    command += ["--remount-ro", "/dev", "--bind", "/proc", "/proc", "--dir", "/tmp", "--symlink", "/tmp", "/var/tmp"]
    for path, number in accounts.items():
        command += ["--ro-bind-data", str(number), path]
    return [*command, "--remount-ro", "/", "--"]


def _repeated(option: str, values: Sequence[str]) -> list[str]:
    return [argument for value in values for argument in (option, value)]


def _read_only(paths: Sequence[str], place: Callable[[str], str] = str) -> list[str]:
    """Return the options that bind ``paths`` read-only.

    Parent folders are created explicitly, because bwrap would create them with mode 0700.
    """
    options = []
    for path in paths:
        for parent in reversed(Path(place(path)).parents[:-1]):
            options += ["--perms", "0755", "--dir", str(parent)]
        options += ["--ro-bind", path, place(path)]
    return options


def _memory_file(text: str) -> int:
    descriptor = os.memfd_create("accounts")
    os.write(descriptor, text.encode())
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
