"""Atomic creation of folders: a folder appears completely or not at all.

Models are hundreds of megabytes. They are built by commands that users interrupt, on disks that fill up, often by
several processes at once. A folder is therefore built under a temporary name next to its target and renamed at the end,
which is one step for the file system. Builders of the same target wait for each other on a lock that the kernel
releases when its holder dies, so a killed build never blocks the next one.
"""

import errno
import fcntl
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from crosstok.errors import UserError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_CLOSED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST}


@contextmanager
def new_folder(target: Path, *, needs_bytes: int = 0) -> Iterator[Path]:
    """Yield an empty folder that becomes ``target`` if the block succeeds and is removed otherwise.

    An existing ``target`` is replaced. Raises UserError if the disk is full, has less than ``needs_bytes`` left, or is
    not writable.
    """
    with _disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(target.parent).free
        if free < needs_bytes:
            raise _full(target, f"{needs_bytes / 1e6:,.0f} MB are needed and {free / 1e6:,.0f} MB are free")
        building = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        with _disk_errors(target):
            yield building
            building.chmod(0o755)  # mkdtemp makes it private; models have the usual permissions
            _swap(building, target)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def build_once(target: Path, build: Callable[[Path], None], *, needs_bytes: int = 0) -> Path:
    """Return ``target``; call ``build(folder)`` to fill it if it does not exist.

    If several processes ask for the same target at once, one builds it and the others wait.
    """
    if not target.is_dir():
        with _lock(target):
            if not target.is_dir():
                _remove_leftovers(target)
                with new_folder(target, needs_bytes=needs_bytes) as folder:
                    build(folder)
    return target


@contextmanager
def _lock(target: Path) -> Iterator[None]:
    with _disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        stream = (target.parent / f".{target.name}.lock").open("w")
    with stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _remove_leftovers(target: Path) -> None:
    """Delete what killed builders left; the caller holds the lock, so no builder is running."""
    for folder in target.parent.glob(f".{target.name}.*"):
        if folder.is_dir():
            shutil.rmtree(folder, ignore_errors=True)


def _swap(building: Path, target: Path) -> None:
    """Rename ``building`` to ``target``; an existing folder is moved aside first and then deleted."""
    if not target.exists():
        building.rename(target)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent)) / "old"
    target.rename(old)
    building.rename(target)
    shutil.rmtree(old.parent)


@contextmanager
def _disk_errors(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise _full(target, "the disk is full") from error
        if error.errno in _CLOSED:
            message = f"The folder {target.parent} cannot be written ({error.strerror})."
            raise UserError(message, hint="Choose another one, or set CROSSTOK_CACHE to a folder of yours.") from error
        raise
    except SafetensorError as error:  # its writer reports a full disk as text
        if any(f"os error {number}" in str(error) for number in _FULL):
            raise _full(target, "the disk is full") from error
        raise


def _full(target: Path, why: str) -> UserError:
    return UserError(
        f"There is not enough room for {target.name} in {target.parent}: {why}.",
        hint="Free some space, or set CROSSTOK_CACHE to a folder on another disk. Nothing was written.",
    )
