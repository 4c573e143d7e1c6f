"""Memory and process counts over all that a worker runs, where this user may make control groups.

Limits of one process do not add up to a limit of a program: forks multiply address space, and memory files are in
nobody's. A control group counts every page. Version 1 hierarchies are used by root; version 2 where the folder of this
process's own group is delegated to this user (as a systemd user session or ``systemd-run --user --scope`` does) or
belongs to root. Where neither is possible, the backend does not promise ``memory-total``.
"""

import contextlib
import itertools
import os
import time
from pathlib import Path

MOUNTS = Path("/sys/fs/cgroup")
_counter = itertools.count()


class ControlGroup:
    """A group of this process's making; everything that its members start is a member too."""

    def __init__(self, folders: dict[str, Path], *, unified: bool) -> None:
        self._folders = folders
        self._unified = unified
        self._limit = 0
        self._processes = 0

    def limit(self, memory_bytes: int, processes: int) -> None:
        """Bound the members' memory together, tmpfs and memory files included, and their number."""
        if processes != self._processes:
            _write(self._folders["pids"] / "pids.max", processes)
            self._processes = processes
        if memory_bytes == self._limit:
            return
        memory = self._folders["memory"]
        if self._unified:
            _write(memory / "memory.max", memory_bytes)
            with contextlib.suppress(OSError):  # no swap accounting in this kernel
                _write(memory / "memory.swap.max", 0)
        else:
            order = ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"]
            for name in order if memory_bytes < self._limit or not self._limit else reversed(order):
                with contextlib.suppress(OSError):  # no swap accounting, or the order was the wrong one
                    _write(memory / name, memory_bytes)
            if int((memory / order[0]).read_text()) > memory_bytes + (1 << 20):
                raise OSError(f"the memory limit of {memory} does not take")
        self._limit = memory_bytes

    def add(self, pid: int) -> None:
        """Put a process into the group."""
        for folder in set(self._folders.values()):
            _write(folder / "cgroup.procs", pid)

    def remove(self) -> None:
        """Remove the group, whose members must have ended."""
        for folder in set(self._folders.values()):
            for _ in range(100):
                try:
                    folder.rmdir()
                    break
                except FileNotFoundError:
                    break
                except OSError:  # the last member is not quite gone
                    time.sleep(0.02)


def create(mounts: Path = MOUNTS) -> ControlGroup | None:
    """Make a group, or return None where this user may not."""
    name = f"crosstok-{os.getpid()}-{next(_counter)}"
    for version in (_create_v1, _create_v2):
        with contextlib.suppress(OSError):
            return version(mounts, name)
    return None


def _create_v1(mounts: Path, name: str) -> ControlGroup:
    folders: dict[str, Path] = {}
    try:
        for controller in ("memory", "pids"):
            folder = mounts / controller / _own_path(controller).lstrip("/") / name
            if not (mounts / controller / "cgroup.procs").exists():
                raise FileNotFoundError(controller)
            _sweep(folder.parent)
            folder.mkdir()
            folders[controller] = folder
    except OSError:
        for folder in folders.values():
            folder.rmdir()
        raise
    return ControlGroup(folders, unified=False)


def _create_v2(mounts: Path, name: str) -> ControlGroup:
    own = mounts / _own_path("").lstrip("/")
    # A group with members may not hand controllers to groups below it, so ours is made beside this process's own,
    # in the nearest group above that hands them on and that this user may write to.
    for parent in [own, *own.parents]:
        if parent == mounts.parent:
            break
        with contextlib.suppress(OSError):
            handed = (parent / "cgroup.subtree_control").read_text().split()
            if {"memory", "pids"} <= set(handed):
                folder = parent / name
                _sweep(parent)
                folder.mkdir()
                return ControlGroup({"memory": folder, "pids": folder}, unified=True)
    raise FileNotFoundError("no group that hands on memory and pids")


def _sweep(parent: Path) -> None:
    """Remove the empty groups of harnesses that were killed before they could."""
    for folder in parent.glob("crosstok-*-*"):
        if not Path(f"/proc/{folder.name.split('-')[1]}").exists():
            with contextlib.suppress(OSError):  # its last members are still dying
                folder.rmdir()


def _own_path(controller: str) -> str:
    """Return this process's path in the hierarchy of ``controller``; the empty name stands for version 2."""
    for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
        _, names, path = line.split(":", 2)
        if controller in names.split(",") or (not controller and not names):
            return path
    return "/"


def _write(path: Path, value: int) -> None:
    path.write_text(str(value), encoding="ascii")
