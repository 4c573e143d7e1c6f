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
    """Return what an escaped program would change on this host: mounts, shared memory, System V objects, processes."""
    mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    shared = sorted(os.listdir("/dev/shm")) if Path("/dev/shm").is_dir() else []  # noqa: S108, PTH208
    system_v = {
        kind: len(path.read_text(encoding="ascii").splitlines())
        for kind in ("shm", "sem", "msg")
        if (path := Path("/proc/sysvipc") / kind).exists()
    }
    return {"mounts": mounts, "shared memory": shared, "system v": system_v}


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
