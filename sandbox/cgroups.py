"""Control groups (cgroups) that bound the memory and the number of all processes of a worker together.

Limits per process do not add up to a limit per program: each fork gets its own address space, and memory files (memfd,
tmpfs) belong to no process. A control group counts every page. Version 1 hierarchies require root. Version 2 requires
root, or a group that is delegated to this user, as in a systemd user session or under ``systemd-run --user --scope``.
Where neither is available, the backend does not guarantee ``memory-total``.
"""

import contextlib
import itertools
import os
import time
from pathlib import Path

MOUNTS = Path("/sys/fs/cgroup")
_counter = itertools.count()


class ControlGroup:
    """A control group created by this process; child processes of its members are members too."""

    def __init__(self, folders: dict[str, Path], *, unified: bool) -> None:
        self._folders = folders
        self._unified = unified
        self._limit = 0
        self._processes = 0

    def limit(self, memory_bytes: int, processes: int) -> None:
        """Bound the total memory of the members in bytes, tmpfs and memory files included, and their number.

        Raises OSError if the kernel does not apply the limit.
        """
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
                with contextlib.suppress(OSError):  # no swap accounting, or the other order is required
                    _write(memory / name, memory_bytes)
            if int((memory / order[0]).read_text()) > memory_bytes + (1 << 20):
                raise OSError(f"the kernel did not apply the memory limit of {memory}")
        self._limit = memory_bytes

    def add(self, pid: int) -> None:
        """Move a process into the group."""
        for folder in set(self._folders.values()):
            _write(folder / "cgroup.procs", pid)

    def remove(self) -> None:
        """Remove the group; all members must have ended."""
        for folder in set(self._folders.values()):
            for _ in range(100):
                try:
                    folder.rmdir()
                    break
                except FileNotFoundError:
                    break
                except OSError:  # the last member is still exiting
                    time.sleep(0.02)


def create(mounts: Path = MOUNTS) -> ControlGroup | None:
    """Create a group, or return None if this user may not."""
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
    # A cgroup v2 with members cannot delegate controllers to its children. Create the new group as a sibling instead:
    # in the nearest ancestor that delegates both controllers and that this user may write to.
    for parent in [own, *own.parents]:
        if parent == mounts.parent:
            break
        with contextlib.suppress(OSError):
            delegated = (parent / "cgroup.subtree_control").read_text().split()
            if {"memory", "pids"} <= set(delegated):
                folder = parent / name
                _sweep(parent)
                folder.mkdir()
                return ControlGroup({"memory": folder, "pids": folder}, unified=True)
    raise FileNotFoundError("no writable group delegates memory and pids")


def _sweep(parent: Path) -> None:
    """Remove empty groups left by processes that were killed before they could remove them."""
    for folder in parent.glob("crosstok-*-*"):
        if not Path(f"/proc/{folder.name.split('-')[1]}").exists():
            with contextlib.suppress(OSError):  # its last members are still exiting
                folder.rmdir()


def _own_path(controller: str) -> str:
    """Return this process's path in the hierarchy of ``controller``; an empty name selects version 2."""
    for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
        _, names, path = line.split(":", 2)
        if controller in names.split(",") or (not controller and not names):
            return path
    return "/"


def _write(path: Path, value: int) -> None:
    path.write_text(str(value), encoding="ascii")
