"""Finding a container engine: Docker, rootless Docker, Docker Desktop or Podman, whichever answers on a socket here."""

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
"""For one answer of the engine: making a container takes long on a machine that is short of everything."""


class NoEngineError(OSError):
    """No engine answers; the message says in one line where one was looked for."""


def addresses() -> list[str]:
    """Return where an engine may listen: DOCKER_HOST alone if it is set, else the usual sockets that exist here.

    The system's engines come before those of this user, Docker before Podman.
    """
    if named := os.environ.get("DOCKER_HOST"):
        return [named]
    return [f"unix://{path}" for path in _places() if os.path.exists(path)]  # noqa: PTH110  (Path.exists may raise)


def connect(timeout: int = _TIMEOUT_S) -> "DockerClient":
    """Return a client of the first engine that answers; the caller closes it. Raises NoEngineError."""
    if importlib.util.find_spec("docker") is None:
        raise NoEngineError("the Python package docker is not installed (pip install docker)")
    import docker  # noqa: PLC0415  (a slow import, for users of this backend only)

    faults = []
    for address in addresses():
        try:
            client = docker.from_env(environment={**os.environ, "DOCKER_HOST": address}, timeout=timeout)
        except (docker.errors.DockerException, ValueError) as fault:
            faults.append(f"{address}: {_line(fault)}")
            continue
        try:
            client.ping()
        except (docker.errors.DockerException, OSError) as fault:  # OSError: what requests raises
            client.close()
            faults.append(f"{address}: {_line(fault)}")
        else:
            return client
    looked = "; ".join(faults) if faults else f"no socket at {', '.join(map(str, _places()))}"
    raise NoEngineError(f"no container engine answers ({looked})")


def _places() -> Sequence[Path]:
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
