"""Backend ``docker``: one warm container per worker, for macOS and for machines that deny user namespaces to processes.

The container has no network, no capabilities and no way to gain privileges; its root is read-only, and its memory and
processes are limited. Inside, the worker isolates each program as on the other backends, for which it needs user
namespaces. The engine's seccomp profile denies these; it is therefore disabled for the container, and the worker
installs its own filter on every candidate. Nothing is executed in a running container: programs and verdicts travel
over its standard input and output, which close when this process ends.

Any engine with Docker's API works, including rootless Docker and Podman's socket
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
        """Connect to a container engine."""
        try:
            engine.connect(timeout=10).close()
        except engine.NoEngineError as fault:
            return self.unavailable(str(fault))
        return None

    def promise(self) -> BackendReport:
        """Return the report: the container bounds the memory of all processes together."""
        return BackendReport(self.name, available=True, guarantees=GUARANTEES | {"memory-total"})

    def start(self, slot: int, packages: Sequence[str]) -> Worker:
        """Start a container whose only process is a worker. Raises OSError if the engine refuses."""
        import docker  # slow, and needed by this backend only

        uid, wanted = FIRST_UID + slot % 1024, tuple(packages)
        with contextlib.ExitStack() as undo:
            client = engine.connect()
            undo.callback(client.close)
            try:
                if wanted not in self._images:
                    self._images[wanted] = image.ready(client, wanted)
                chosen = self._images[wanted]
                container = _create(client, chosen, uid)
                undo.callback(_remove, container)
                worker = ContainerWorker(client, container, worker_config(self.name, uid, chosen.packages, wanted))
            except docker.errors.DockerException as fault:
                raise OSError(f"the container engine reported an error: {fault}") from fault
            undo.pop_all()
        return worker


class ContainerWorker(Worker):
    """A worker connected through the standard streams of its container."""

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
        self.programs = os.dup(self.verdicts)  # the pool polls reading and writing separately
        container.start()

    def write(self, data: memoryview) -> int:
        """Write to the container's standard input."""
        return self._socket.send(data)

    def read(self) -> bytes:
        """Return bytes of the container's standard output; keep the end of its standard error."""
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
        """Set the container's memory limit if it differs from that of the previous program."""
        memory = total_memory(limits)
        if memory != self._memory:
            import docker

            self._memory = memory
            try:
                self._container.update(mem_limit=memory, memswap_limit=memory)
            except docker.errors.DockerException as fault:
                raise OSError(f"the container engine reported an error: {fault}") from fault

    def stderr_tail(self) -> str:
        """Return the end of standard error."""
        return self._errors.decode("utf-8", "replace").strip()

    def close(self) -> None:
        """Remove the container and wait until the engine has done so."""
        import docker

        os.close(self.programs)
        self._attached.close()
        self._socket.close()
        deadline = time.monotonic() + _REMOVAL_S
        try:
            while time.monotonic() < deadline:
                _remove(self._container)
                self._container.reload()
                time.sleep(0.05)
            _log.warning(
                "The container engine did not remove the container %s within %.0f s.", self._container.name, _REMOVAL_S
            )
        except docker.errors.APIError as gone:
            if "no such container" not in str(gone).lower():  # Podman 4 answers with status 500
                raise
        self._client.close()


def _unmasked(client: "DockerClient") -> list[str]:
    """Return the option with which Podman leaves /proc unmasked; Docker rejects it."""
    parts: list[dict[str, Any]] = client.version().get("Components") or []
    return ["unmask=ALL"] if any("podman" in str(part.get("Name")).lower() for part in parts) else []


def _create(client: "DockerClient", chosen: image.Image, uid: int) -> "Container":
    from docker.types import Ulimit

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
        tmpfs={"/tmp": "size=1m,mode=1777"},  # every program mounts its own over it
        binds=binds,
        log_config=_no_log(),
        # Podman's defaults exceed what a host without CAP_SYS_RESOURCE may grant; the worker sets tighter limits.
        ulimits=[Ulimit(name=name, soft=most, hard=most) for name, most in _ULIMITS.items()],
        auto_remove=True,
    )
    # The kernel mounts a new /proc only while a complete one is visible, so the container's must not be masked. It
    # shows the container's processes, and each program mounts its own over it. (Podman ignores these lists: see
    # _unmasked.)
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
    # Standard input closes when this process ends, and then the worker ends too.
    return client.containers.get(made["Id"])


def _remove(container: "Container") -> None:
    import docker

    with contextlib.suppress(docker.errors.APIError):  # removal is in progress or done
        container.remove(force=True, v=True)


def _no_log() -> Any:
    from docker.types import LogConfig

    return LogConfig(type="none")
