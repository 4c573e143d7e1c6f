"""Decoys on the host that a program must not reach, and inspection of the traces that an escape would leave.

The decoys are a file, a TCP server on the loopback interface, an abstract Unix socket, and a secret in the environment.
Inspection before and after an attack covers processes, mounts, shared memory and System V objects.
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

SECRET = "CROSSTOK_DECOY"  # noqa: S105  (the name of an environment variable)


@dataclass(frozen=True)
class Host:
    """The decoys on this machine."""

    canary: Path
    port: int
    abstract: str
    token: str
    listeners: tuple[socket.socket, ...]

    def connections(self) -> list[str]:
        """Return the address families of the servers that received a connection."""
        found = []
        for listener in self.listeners:
            with contextlib.suppress(BlockingIOError):
                connection, _ = listener.accept()
                connection.close()
                found.append(str(listener.family.name))
        return found

    def changes(self, before: dict[str, object]) -> list[str]:
        """Return descriptions of decoys that were reached, and of differences to the :func:`traces` ``before``."""
        found = [f"the {family} decoy received a connection" for family in self.connections()]
        if self.canary.read_text(encoding="utf-8", errors="replace") != self.token:
            found.append("the decoy file was written")
        return found + [f"{what} changed" for what, state in traces().items() if state != before[what]]

    @classmethod
    def placeholder(cls) -> "Host":
        """Return a host without decoys, for listing the names of the escapes."""
        return cls(Path("/"), 1, "x", "x", ())


@contextlib.contextmanager
def decoys() -> Iterator[Host]:
    """Set up the decoys, and remove them at the end of the block."""
    token = secrets.token_hex(8)
    with tempfile.TemporaryDirectory(prefix="crosstok-decoy-") as folder, socket.socket() as tcp:
        Path(folder).chmod(0o755)
        canary = Path(folder) / "canary.txt"
        canary.write_text(token, encoding="ascii")
        canary.chmod(0o666)
        tcp.bind(("127.0.0.1", 0))
        tcp.listen()
        with socket.socket(socket.AF_UNIX) as unix:
            abstract = f"crosstok-decoy-{token}"
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

    Objects of other users are ignored: only shared memory and System V objects of the uids of programs count, and
    mounts other than those of container engines.
    """
    mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    return {
        "mounts": [line for line in mounts if not _belongs_to_engine(line)],
        "shared memory": sorted(path.name for path in _entries("/dev/shm") if _owner(path) in _uids()),
        "system v": {kind: _system_v(kind) for kind in ("shm", "sem", "msg")},
    }


def _uids() -> range:
    """Return the host uids under which programs run."""
    own = os.geteuid()
    return range(FIRST_UID, FIRST_UID + 1024) if own == 0 else range(own, own + 1)


def _belongs_to_engine(mount: str) -> bool:
    """Return whether a line of mountinfo belongs to a container engine: a root, shared memory, or a namespace."""
    what, _, kind = mount.partition(" - ")
    point = what.split()[4]
    return kind.split()[0] in ("overlay", "nsfs") or "/containers/" in point or point.endswith("/netns")


def _entries(folder: str) -> list[Path]:
    return list(Path(folder).iterdir()) if Path(folder).is_dir() else []


def _owner(path: Path) -> int:
    try:
        return path.stat().st_uid
    except FileNotFoundError:  # removed since the folder was read
        return -1


def _system_v(kind: str) -> int:
    """Return the number of System V objects of one kind that belong to the uids of programs."""
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
