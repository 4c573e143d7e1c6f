"""Container images for the docker backend: an interpreter, its standard library, and what packages need.

An image whose entry point is the interpreter is obtained in one of two ways. *Built*: from the Dockerfile of this
package, based on ``python:<version>-slim`` and with packages from the index; used if the network is allowed
(``CROSSTOK_NETWORK=1``) or the engine already has the base image. *Packed*: from the Python that runs here and the
shared libraries that it loads; needs no registry, and the worker runs the same interpreter as the harness. A packed
image has no shell, no package manager and no site-packages; packages are bind-mounted into the container, read-only.
"""

import io
import json
import logging
import os
import platform
import re
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from crosstok.fingerprint import fingerprint
from crosstok.sandbox.backends.backend import FOLDER, interpreter
from crosstok.sandbox.packages import distributions, package_paths

if TYPE_CHECKING:
    from docker.client import DockerClient

_log = logging.getLogger(__name__)
REPOSITORY = "crosstok-sandbox"
BASE = f"python:{platform.python_version()}-slim"
_EXCLUDED = {
    "site-packages",
    "dist-packages",
    "test",
    "tests",
    "idlelib",
    "tkinter",
    "turtledemo",
    "lib2to3",
    "ensurepip",
    "__pycache__",
    "pydoc_data",
    f"config-{sys.version_info.major}.{sys.version_info.minor}-{sysconfig.get_config_var('MULTIARCH')}",
}


class Image(NamedTuple):
    """An image present in the engine."""

    name: str
    packages: list[str]
    """Paths of the packages inside the container."""
    binds: list[str]
    """Those of them to be bind-mounted from the host, at the same paths."""


def ready(client: "DockerClient", packages: Sequence[str]) -> Image:
    """Return an image for programs that declare ``packages``, creating it if the engine does not have it.

    If the build fails, this interpreter is packed instead, with a warning. Raises docker.errors.DockerException or
    OSError if packing fails too, UserError for a package that is not installed.
    """
    import docker

    if _may_build(client, packages):
        try:
            return built(client, packages)
        except (docker.errors.DockerException, OSError) as fault:
            reason = str(fault).partition("\n")[0][:200]
            _log.warning("Cannot build the container image (%s); packing this interpreter instead.", reason)
    return packed(client, packages)


def built(client: "DockerClient", packages: Sequence[str]) -> Image:
    """Return the image of the Dockerfile, building it if the engine does not have it."""
    name = _built_name(packages)
    paths = [f"/packages/{package}" for package in packages]
    if not _has(client, name):
        _log.info("Building the container image %s from %s", name, BASE)
        client.images.build(
            fileobj=io.BytesIO(_context(packages)),
            custom_context=True,
            tag=name,
            buildargs={"PYTHON": platform.python_version()},
            rm=True,
            forcerm=True,
        )
    return Image(name, paths, [])


def packed(client: "DockerClient", packages: Sequence[str]) -> Image:
    """Return the image of this interpreter, importing it if the engine does not have it."""
    if sys.platform != "linux":
        raise OSError(
            f"the Python of this machine cannot run in a container; set CROSSTOK_NETWORK=1 to build from {BASE}"
        )
    paths = package_paths(packages)
    name = _packed_name(paths)
    if not _has(client, name):
        _log.info("Packing this interpreter into the container image %s", name)
        entry = f"ENTRYPOINT {json.dumps([interpreter()])}"
        import_archive(client, tarball(paths), name, entry)
    return Image(name, paths, paths)


def import_archive(client: "DockerClient", archive: bytes, name: str, change: str) -> None:
    """Import a tar ``archive`` into the engine as image ``name``; ``change`` is a Dockerfile instruction."""
    repository, _, tag = name.partition(":")
    answer: str = client.api.import_image_from_data(archive, repository=repository, tag=tag, changes=[change])
    client.api.tag(re.findall(r"sha256:[0-9a-f]{64}", answer)[-1], repository, tag)  # Podman 4 calls it "latest"


def requirements(packages: Sequence[str]) -> str:
    """Return pip requirements for ``packages`` and their dependencies, pinned to the versions of this host."""
    return "".join(sorted(f"{one.metadata['Name']}=={one.version}\n" for one in distributions(packages)))


def _may_build(client: "DockerClient", packages: Sequence[str]) -> bool:
    if os.environ.get("CROSSTOK_NETWORK", "0") == "1" or _has(client, _built_name(packages)):
        return True
    return not packages and _has(client, BASE)  # packages would need the index


def _has(client: "DockerClient", name: str) -> bool:
    import docker

    try:
        client.images.get(name)
    except docker.errors.ImageNotFound:
        return False
    return True


def _built_name(packages: Sequence[str]) -> str:
    dockerfile = (FOLDER / "Dockerfile").read_text(encoding="utf-8")
    return _name("built", {"base": BASE, "packages": requirements(packages), "dockerfile": dockerfile})


def _packed_name(paths: Sequence[str]) -> str:
    """Return a name that changes with the interpreter, the libraries that packages load, and this module."""
    module = Path(__file__).read_text(encoding="utf-8")
    libraries = sorted(map(str, _libraries_of(tuple(paths))))
    contents = {"version": sys.version, "prefix": sys.base_prefix, "libraries": libraries, "module": module}
    return _name("packed", contents)


def _name(way: str, contents: Mapping[str, object]) -> str:
    return f"{REPOSITORY}:py{sys.version_info.major}.{sys.version_info.minor}-{way}-{fingerprint(contents)}"


def _context(packages: Sequence[str]) -> bytes:
    """Return the build context: the Dockerfile and the pinned requirements, as a tar archive."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        dockerfile, pins = (FOLDER / "Dockerfile").read_bytes(), requirements(packages).encode()
        for name, text in (("Dockerfile", dockerfile), ("requirements.txt", pins)):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(text), 0o644
            archive.addfile(entry, io.BytesIO(text))
    return out.getvalue()


def tarball(packages: Sequence[str]) -> bytes:
    """Return the image's file system as an uncompressed tar archive.

    It includes the system libraries that ``packages`` (paths) load, but not the packages, which are bind-mounted.
    """
    executable = Path(interpreter())
    library = Path(sysconfig.get_paths()["stdlib"]).resolve()
    modules = sorted((library / "lib-dynload").glob("*.so"))
    index = {path for path in (Path("/etc/ld.so.cache"),) if path.is_file()}
    files = {*index, executable, *_shared_libraries([executable, *modules]), *_libraries_of(tuple(packages))}
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT, dereference=True) as archive:
        for folder in ("tmp", "proc", "sys", "dev", "etc", "var"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(entry)
        for path in sorted(files):
            archive.add(path, arcname=str(path), recursive=False)
        for path in sorted(library.rglob("*")):
            if path not in files and path.is_file() and not _EXCLUDED & set(path.relative_to(library).parts[:-1]):
                archive.add(path, arcname=str(path), recursive=False)
    return out.getvalue()


@cache
def _libraries_of(packages: tuple[str, ...]) -> frozenset[Path]:
    """Return the system libraries that packages load, i.e. those outside all of them."""
    modules = [path for package in packages for path in sorted(Path(package).rglob("*.so*"))]
    modules += [Path(package) for package in packages if package.endswith(".so")]
    found = _shared_libraries(modules) if modules else set()
    return frozenset(path for path in found if not any(path.is_relative_to(package) for package in packages))


def _shared_libraries(binaries: list[Path]) -> set[Path]:
    """Return the libraries that the dynamic loader maps for ``binaries``, under the paths it looks up."""
    output = subprocess.run(
        ["ldd", *map(str, binaries)], capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"}
    ).stdout
    return {Path(os.path.normpath(match)) for match in re.findall(r"(?:=> |^\s+)(/\S+) \(0x", output, re.MULTILINE)}
