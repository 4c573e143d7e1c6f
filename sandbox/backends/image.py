"""The container image: this interpreter, its standard library and the shared libraries that they load, and no more.

It is packed from the running Python and imported into the engine, so that no registry is needed and the worker runs
what the harness runs. There is no shell, no package manager and no site-packages folder in it.
"""

import io
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Sequence
from pathlib import Path

from crosstok.fingerprint import fingerprint

REPOSITORY = "crosstok-sandbox"
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
}
_LEFT_OUT |= {
    "__pycache__",
    "pydoc_data",
    f"config-{sys.version_info.major}.{sys.version_info.minor}-{sysconfig.get_config_var('MULTIARCH')}",
}


def tag(packages: Sequence[str]) -> str:
    """Return the image's tag, which changes with the interpreter and with this recipe."""
    recipe = Path(__file__).read_text(encoding="utf-8")
    return f"py{sys.version_info.major}.{sys.version_info.minor}-" + fingerprint(
        {"version": sys.version, "prefix": sys.base_prefix, "packages": list(packages), "recipe": recipe}
    )


def tarball(packages: Sequence[str]) -> bytes:
    """Return the image's file system as an uncompressed tar archive.

    Of ``packages`` (paths) it holds the system libraries that they load; they themselves are bound into the container.
    """
    executable = Path(sys.executable).resolve()
    library = Path(sysconfig.get_paths()["stdlib"]).resolve()
    modules = sorted((library / "lib-dynload").glob("*.so"))
    modules += [path for package in packages for path in sorted(Path(package).rglob("*.so*"))]
    cache = {path for path in (Path("/etc/ld.so.cache"),) if path.is_file()}
    files = {*cache, executable, *_shared_libraries([executable, *modules])}
    files = {path for path in files if not any(path.is_relative_to(package) for package in packages)}
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


def _shared_libraries(binaries: list[Path]) -> set[Path]:
    """Return the libraries that the loader maps for ``binaries``, under the names by which it looks for them."""
    output = subprocess.run(
        ["ldd", *map(str, binaries)], capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"}
    ).stdout
    return {Path(os.path.normpath(match)) for match in re.findall(r"(?:=> |^\s+)(/\S+) \(0x", output, re.MULTILINE)}
