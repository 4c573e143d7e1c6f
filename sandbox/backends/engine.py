"""Discovery of a container engine: Docker, rootless Docker, Docker Desktop or Podman, through their sockets."""

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from docker.client import DockerClient

HINT = (
    "Install and start Docker (apt install docker.io) or Podman (systemctl --user start podman.socket), "
    "or point DOCKER_HOST at an engine's socket."
)
_TIMEOUT_S = 300
"""Seconds for one answer of the engine; on a loaded machine, creating a container takes long."""


class NoEngineError(OSError):
    """No engine answered; the message lists the addresses that were tried."""


def addresses() -> list[str]:
    """Return the addresses to try: DOCKER_HOST alone if it is set, otherwise the usual sockets that exist.

    System engines come before those of the user, Docker before Podman.
    """
    if named := os.environ.get("DOCKER_HOST"):
        return [named]
    return [f"unix://{path}" for path in _sockets() if os.path.exists(path)]  # noqa: PTH110  (Path.exists may raise)


def connect(timeout: int = _TIMEOUT_S) -> "DockerClient":
    """Return a client of the first engine that answers; the caller must close it. Raises NoEngineError."""
    if importlib.util.find_spec("docker") is None:
        raise NoEngineError("the Python package docker is not installed (pip install docker)")
    import docker  # slow, and needed by this backend only

    faults = []
    for address in addresses():
        try:
            client = docker.from_env(environment={**os.environ, "DOCKER_HOST": address}, timeout=timeout)
        except (docker.errors.DockerException, ValueError) as fault:
            faults.append(f"{address}: {_line(fault)}")
            continue
        try:
            client.ping()
        except (docker.errors.DockerException, OSError) as fault:  # OSError: base class of the exceptions of requests
            client.close()
            faults.append(f"{address}: {_line(fault)}")
        else:
            return client
    looked = "; ".join(faults) if faults else f"no socket at {', '.join(map(str, _sockets()))}"
    raise NoEngineError(f"no container engine answers ({looked})")


def _sockets() -> Sequence[Path]:
    own = Path(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}")
    return (
        Path("/var/run/docker.sock"),
        own / "docker.sock",
        Path.home() / ".docker/run/docker.sock",  # Docker Desktop
        Path("/run/podman/podman.sock"),
        own / "podman/podman.sock",
    )


def _line(fault: BaseException) -> str:
    text = str(fault)
    for cause in ("Permission denied", "Connection refused", "No such file or directory"):
        if cause in text:
            return cause.lower()
    return text.partition("\n")[0][:120]
