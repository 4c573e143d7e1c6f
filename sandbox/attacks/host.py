"""Bait on the host: what a program must not reach, and the traces that it would leave.

A file that only this machine has, a TCP server on the loopback, an abstract Unix socket, a secret in the environment.
Before and after an attack the host is also looked over: processes, mounts, shared memory and System V objects.
"""

import contextlib
import os
import secrets
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from crosstok.sandbox.backends.namespaces import FIRST_UID

SECRET = "CROSSTOK_BAIT"  # noqa: S105  (the name of an environment variable)


@dataclass(frozen=True)
class Host:
    """The bait that hangs out on this machine."""

    canary: Path
    port: int
    abstract: str
    token: str
    listeners: tuple[socket.socket, ...]

    def visitors(self) -> list[str]:
        """Return which of the servers somebody connected to."""
        found = []
        for listener in self.listeners:
            with contextlib.suppress(BlockingIOError):
                connection, _ = listener.accept()
                connection.close()
                found.append(str(listener.family.name))
        return found

    def harm(self, before: dict[str, object]) -> list[str]:
        """Return what of this machine is not as :func:`traces` found it ``before``, or was reached."""
        found = [f"somebody connected to the bait's {family} server" for family in self.visitors()]
        if self.canary.read_text(encoding="utf-8", errors="replace") != self.token:
            found.append("the bait file was written")
        return found + [f"{what} changed" for what, state in traces().items() if state != before[what]]

    @classmethod
    def nowhere(cls) -> "Host":
        """Return a host without bait, for those who want no more than the names of the escapes."""
        return cls(Path("/"), 1, "x", "x", ())


@contextlib.contextmanager
def bait() -> Iterator[Host]:
    """Hang out the bait, and take it in again."""
    token = secrets.token_hex(8)
    with tempfile.TemporaryDirectory(prefix="crosstok-bait-") as folder, socket.socket() as tcp:
        Path(folder).chmod(0o755)
        canary = Path(folder) / "canary.txt"
        canary.write_text(token, encoding="ascii")
        canary.chmod(0o666)
        tcp.bind(("127.0.0.1", 0))
        tcp.listen()
        with socket.socket(socket.AF_UNIX) as unix:
            abstract = f"crosstok-bait-{token}"
            unix.bind("\0" + abstract)
            unix.listen()
            for listener in (tcp, unix):
                listener.setblocking(False)
            os.environ[SECRET] = token
            try:
                yield Host(canary, tcp.getsockname()[1], abstract, token, (tcp, unix))
            finally:
                del os.environ[SECRET]


def traces() -> dict[str, object]:
    """Return what an escaped program would change on this host: mounts, shared memory, System V objects.

    Only what it could have made is looked at, since a host has other users who come and go: shared memory and System V
    objects of the uids that programs run under, and mounts other than those of container engines.
    """
    mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    return {
        "mounts": [line for line in mounts if not _is_of_an_engine(line)],
        "shared memory": sorted(path.name for path in _entries("/dev/shm") if _owner(path) in _uids()),  # noqa: S108
        "system v": {kind: _system_v(kind) for kind in ("shm", "sem", "msg")},
    }


def _uids() -> range:
    """Return the uids of this host that programs run under."""
    own = os.geteuid()
    return range(FIRST_UID, FIRST_UID + 1024) if own == 0 else range(own, own + 1)


def _is_of_an_engine(mount: str) -> bool:
    """Tell whether a line of mountinfo is a container's root, its shared memory, or a namespace that is kept open."""
    what, _, kind = mount.partition(" - ")
    point = what.split()[4]
    return kind.split()[0] in ("overlay", "nsfs") or "/containers/" in point or point.endswith("/netns")


def _entries(folder: str) -> list[Path]:
    return list(Path(folder).iterdir()) if Path(folder).is_dir() else []


def _owner(path: Path) -> int:
    try:
        return path.stat().st_uid
    except FileNotFoundError:  # gone since the folder was read
        return -1


def _system_v(kind: str) -> int:
    """Count the System V objects of one kind that belong to the uids of programs."""
    path = Path("/proc/sysvipc") / kind
    if not path.exists():
        return 0
    head, *rows = (line.split() for line in path.read_text(encoding="ascii").splitlines())
    return sum(int(row[head.index("uid")]) in _uids() for row in rows)


def descendants(root: int) -> dict[int, str]:
    """Return pid and command of every process below ``root``, zombies included."""
    parents: dict[int, tuple[int, str]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                text = (folder / "stat").read_text(encoding="utf-8", errors="replace")
                name = text[text.index("(") + 1 : text.rindex(")")]
                parents[int(folder.name)] = (int(text[text.rindex(")") + 2 :].split()[1]), name)
    found: dict[int, str] = {}
    grown = True
    while grown:
        grown = False
        for pid, (parent, name) in parents.items():
            if pid not in found and (parent == root or parent in found):
                found[pid] = name
                grown = True
    return found
