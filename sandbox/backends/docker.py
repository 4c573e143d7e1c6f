"""One warm container per worker, for machines that refuse user namespaces to ordinary processes, and for macOS.

The container has no network, no capability, a read-only root and limits on memory and processes; it can gain no
privilege. Inside it the worker builds the same inner walls around every program as on the other backends, for which it
needs user namespaces: the engine's own filter of system calls, which refuses them, is replaced by the filter that the
worker puts on every candidate. Nothing is ever executed into a running container; programs and verdicts travel over
its standard input and output, which end with this process.

Any engine that speaks Docker's API will do, rootless Docker and Podman's socket included
(:mod:`crosstok.sandbox.backends.engine`).
"""

import contextlib
import logging
import os
import struct
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from crosstok.sandbox.backends import engine, image
from crosstok.sandbox.backends.backend import (
    ENVIRONMENT,
    FOLDER,
    OWN_PROCESSES,
    Backend,
    BackendReport,
    Worker,
    total_memory,
    worker_arguments,
    worker_config,
)
from crosstok.sandbox.backends.namespaces import FIRST_UID, GUARANTEES
from crosstok.sandbox.program import Limits
from crosstok.sandbox.worker.jail import visible_at

if TYPE_CHECKING:
    import socket

    from docker.client import DockerClient
    from docker.models.containers import Container

_log = logging.getLogger(__name__)
_HEADER = struct.Struct(">BxxxI")  # stream number and length, as the attach endpoint frames output
_ERRORS = 2
_REMOVAL_S = 120.0
_ULIMITS = {"nofile": 1024, "nproc": 4096}


class Docker(Backend):
    """Workers in containers."""

    name = "docker"
    hint = engine.HINT

    def __init__(self) -> None:
        self._images: dict[tuple[str, ...], image.Image] = {}

    def unmet_precondition(self) -> BackendReport | None:
        """Look for a container engine that answers."""
        try:
            engine.connect(timeout=10).close()
        except engine.NoEngineError as fault:
            return self.unavailable(str(fault))
        return None

    def promise(self) -> BackendReport:
        """Return the report: the container bounds the memory of all processes together."""
        return BackendReport(self.name, available=True, guarantees=GUARANTEES | {"memory-total"})

    def start(self, slot: int, packages: Sequence[str]) -> Worker:
        """Start a container with a worker as its only process. Raises OSError where the engine refuses."""
        import docker  # noqa: PLC0415  (a slow import, for users of this backend only)

        uid, wanted = FIRST_UID + slot % 1024, tuple(packages)
        with contextlib.ExitStack() as undo:
            client = engine.connect()
            undo.callback(client.close)
            try:
                if wanted not in self._images:
                    self._images[wanted] = image.ready(client, wanted)
                chosen = self._images[wanted]
                container = _create(client, chosen, uid)
                undo.callback(_discard, container)
                worker = ContainerWorker(client, container, worker_config(self.name, uid, chosen.packages, wanted))
            except docker.errors.DockerException as fault:
                raise OSError(f"the container engine refuses: {fault}") from fault
            undo.pop_all()
        return worker


class ContainerWorker(Worker):
    """A worker at the other end of a container's standard streams."""

    def __init__(self, client: "DockerClient", container: "Container", config: dict[str, Any]) -> None:
        self._client = client
        self._container = container
        self.config = config
        wanted = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
        attached = client.api.attach_socket(str(container.id), params=wanted)
        self._socket: socket.socket = getattr(attached, "_sock", attached)
        self._attached = attached
        self._socket.setblocking(False)
        self._buffer = bytearray()
        self._errors = bytearray()
        self._memory = total_memory(Limits())
        self.verdicts = self._socket.fileno()
        self.programs = os.dup(self.verdicts)  # the pool waits on both
        container.start()

    def write(self, data: memoryview) -> int:
        """Write to the container's standard input."""
        return self._socket.send(data)

    def read(self) -> bytes:
        """Read from the container's standard output, and keep what came from its error stream."""
        chunk = self._socket.recv(1 << 20)
        self._buffer += chunk
        out = bytearray()
        while len(self._buffer) >= _HEADER.size:
            stream, length = _HEADER.unpack_from(self._buffer)
            if len(self._buffer) < _HEADER.size + length:
                break
            text = self._buffer[_HEADER.size : _HEADER.size + length]
            del self._buffer[: _HEADER.size + length]
            if stream == _ERRORS:
                self._errors += text
                del self._errors[:-2000]
            else:
                out += text
        if chunk and not out:
            raise BlockingIOError
        return bytes(out)

    def limit(self, limits: Limits) -> None:
        """Set the container's limits, where they differ from those of the program before."""
        memory = total_memory(limits)
        if memory != self._memory:
            import docker  # noqa: PLC0415  (loaded already: this worker came from it)

            self._memory = memory
            try:
                self._container.update(mem_limit=memory, memswap_limit=memory)
            except docker.errors.DockerException as fault:
                raise OSError(f"the container engine refuses: {fault}") from fault

    def last_words(self) -> str:
        """Return the end of the error stream."""
        return self._errors.decode("utf-8", "replace").strip()

    def close(self) -> None:
        """Remove the container by force."""
        import docker  # noqa: PLC0415  (loaded already: this worker came from it)

        os.close(self.programs)
        self._attached.close()
        self._socket.close()
        deadline = time.monotonic() + _REMOVAL_S
        try:
            while time.monotonic() < deadline:
                _discard(self._container)
                self._container.reload()
                time.sleep(0.05)
            _log.warning("The engine has not removed the container %s in %.0f s.", self._container.name, _REMOVAL_S)
        except docker.errors.APIError as gone:
            if "no such container" not in str(gone).lower():  # Podman 4 says it with status 500
                raise
        self._client.close()


def _unmasked(client: "DockerClient") -> list[str]:
    """Return the option with which Podman masks nothing of /proc; Docker refuses to know it."""
    parts: list[dict[str, Any]] = client.version().get("Components") or []
    return ["unmask=ALL"] if any("podman" in str(part.get("Name")).lower() for part in parts) else []


def _create(client: "DockerClient", chosen: image.Image, uid: int) -> "Container":
    from docker.types import Ulimit  # noqa: PLC0415  (as above)

    binds = [f"{FOLDER / 'worker'}:{FOLDER / 'worker'}:ro"]
    binds += [f"{path}:{visible_at(path)}:ro" for path in chosen.binds]
    host = client.api.create_host_config(
        network_mode="none",
        read_only=True,
        cap_drop=["ALL"],
        security_opt=["no-new-privileges", "seccomp=unconfined", "apparmor=unconfined", *_unmasked(client)],
        mem_limit=total_memory(Limits()),
        memswap_limit=total_memory(Limits()),
        pids_limit=Limits().processes + OWN_PROCESSES,
        ipc_mode="private",
        shm_size=1 << 20,
        tmpfs={"/tmp": "size=1m,mode=1777"},  # noqa: S108  (covered by a fresh one for every program)
        binds=binds,
        log_config=_no_log(),
        # Podman asks for more than a host without CAP_SYS_RESOURCE may give; the worker sets tighter ones.
        ulimits=[Ulimit(name=name, soft=most, hard=most) for name, most in _ULIMITS.items()],
        auto_remove=True,
    )
    # A new /proc may be mounted only where a whole one is in sight. The one that is meant here shows the container's
    # processes and is covered before anything runs. (Podman does not look at these lists: see _unmasked.)
    host["MaskedPaths"], host["ReadonlyPaths"] = [], []
    made = client.api.create_container(
        chosen.name,
        worker_arguments(),
        user=f"{uid}:{uid}",
        environment=ENVIRONMENT,
        working_dir="/",
        hostname="sandbox",
        stdin_open=True,
        host_config=host,
        labels={"crosstok": "sandbox"},
    )
    # Standard input ends with this process, and the worker with it.
    return client.containers.get(made["Id"])


def _discard(container: "Container") -> None:
    import docker  # noqa: PLC0415  (as above)

    with contextlib.suppress(docker.errors.APIError):  # the engine is at it already, or was before
        container.remove(force=True, v=True)


def _no_log() -> Any:
    from docker.types import LogConfig  # noqa: PLC0415  (as above)

    return LogConfig(type="none")
