"""The container image: an interpreter, its standard library, and what the packages of programs need.

There are two ways to it, which end in the same: an image whose entry point is the interpreter. *Built* from the
Dockerfile of this package, out of ``python:<version>-slim`` and with packages from the index: where the network is
allowed (``CROSSTOK_NETWORK=1``) or the engine has the base image already. *Packed* from the Python that runs here, with
the shared libraries that it loads: no registry is needed, and the worker runs what the harness runs. There is no shell,
no package manager and no site-packages folder in it; packages are bound into the container, read-only.
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
_LEFT_OUT = {
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
    """An image that the engine has."""

    name: str
    packages: list[str]
    """Paths of the packages inside of it."""
    binds: list[str]
    """Those of them that lie on the host, at the same paths."""


def ready(client: "DockerClient", packages: Sequence[str]) -> Image:
    """Return an image for programs that declare ``packages``, made now where the engine does not have it.

    Where it cannot be built this interpreter is packed instead, with a warning. Raises docker.errors.DockerException
    and OSError where that is refused too, UserError for a package that is not installed.
    """
    import docker  # noqa: PLC0415  (loaded already: the client came from it)

    if _may_build(client, packages):
        try:
            return built(client, packages)
        except (docker.errors.DockerException, OSError) as fault:
            reason = str(fault).partition("\n")[0][:200]
            _log.warning("The container image cannot be built (%s); packing this interpreter instead.", reason)
    return packed(client, packages)


def built(client: "DockerClient", packages: Sequence[str]) -> Image:
    """Return the image that the Dockerfile describes, building it where the engine does not have it."""
    name = _built_name(packages)
    paths = [f"/packages/{package}" for package in packages]
    if not _has(client, name):
        _log.info("Building the container image %s out of %s", name, BASE)
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
    """Return the image with this interpreter, importing it where the engine does not have it."""
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
    """Give the engine an image of the files in ``archive``; ``change`` is a line of a Dockerfile."""
    repository, _, tag = name.partition(":")
    said: str = client.api.import_image_from_data(archive, repository=repository, tag=tag, changes=[change])
    client.api.tag(re.findall(r"sha256:[0-9a-f]{64}", said)[-1], repository, tag)  # Podman 4 calls it "latest"


def requirements(packages: Sequence[str]) -> str:
    """Return the lines with which pip installs ``packages``, and what they require, in the versions of this host."""
    return "".join(sorted(f"{one.metadata['Name']}=={one.version}\n" for one in distributions(packages)))


def _may_build(client: "DockerClient", packages: Sequence[str]) -> bool:
    if os.environ.get("CROSSTOK_NETWORK", "0") == "1" or _has(client, _built_name(packages)):
        return True
    return not packages and _has(client, BASE)  # packages would come from the index


def _has(client: "DockerClient", name: str) -> bool:
    import docker  # noqa: PLC0415  (as above)

    try:
        client.images.get(name)
    except docker.errors.ImageNotFound:
        return False
    return True


def _built_name(packages: Sequence[str]) -> str:
    recipe = (FOLDER / "Dockerfile").read_text(encoding="utf-8")
    return _name("built", {"base": BASE, "packages": requirements(packages), "recipe": recipe})


def _packed_name(paths: Sequence[str]) -> str:
    """Return a name that changes with the interpreter, the libraries that packages load, and this recipe."""
    recipe = Path(__file__).read_text(encoding="utf-8")
    libraries = sorted(map(str, _libraries_of(tuple(paths))))
    contents = {"version": sys.version, "prefix": sys.base_prefix, "libraries": libraries, "recipe": recipe}
    return _name("packed", contents)


def _name(way: str, contents: Mapping[str, object]) -> str:
    return f"{REPOSITORY}:py{sys.version_info.major}.{sys.version_info.minor}-{way}-{fingerprint(contents)}"


def _context(packages: Sequence[str]) -> bytes:
    """Return the build context: the Dockerfile and the pinned packages."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        recipe, pins = (FOLDER / "Dockerfile").read_bytes(), requirements(packages).encode()
        for name, text in (("Dockerfile", recipe), ("requirements.txt", pins)):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(text), 0o644
            archive.addfile(entry, io.BytesIO(text))
    return out.getvalue()


def tarball(packages: Sequence[str]) -> bytes:
    """Return the image's file system as an uncompressed tar archive.

    Of ``packages`` (paths) it holds the system libraries that they load; they themselves are bound into the container.
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
            if path not in files and path.is_file() and not _LEFT_OUT & set(path.relative_to(library).parts[:-1]):
                archive.add(path, arcname=str(path), recursive=False)
    return out.getvalue()


@cache
def _libraries_of(packages: tuple[str, ...]) -> frozenset[Path]:
    """Return the system's libraries that packages load: those outside of all of them."""
    modules = [path for package in packages for path in sorted(Path(package).rglob("*.so*"))]
    modules += [Path(package) for package in packages if package.endswith(".so")]
    found = _shared_libraries(modules) if modules else set()
    return frozenset(path for path in found if not any(path.is_relative_to(package) for package in packages))


def _shared_libraries(binaries: list[Path]) -> set[Path]:
    """Return the libraries that the loader maps for ``binaries``, under the names by which it looks for them."""
    output = subprocess.run(
        ["ldd", *map(str, binaries)], capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"}
    ).stdout
    return {Path(os.path.normpath(match)) for match in re.findall(r"(?:=> |^\s+)(/\S+) \(0x", output, re.MULTILINE)}
