"""Jails built from Linux namespaces: an outer jail around the worker, and a new inner jail around each candidate.

The outer jail is built once. Its root is an empty tmpfs into which the interpreter and the system libraries are
bind-mounted read-only; no other file of the machine exists inside. Started by root, the worker first switches to an
unused host uid, because the kernel does not enforce RLIMIT_NPROC for the host's root, and files of root would stay
readable. A user namespace of that uid then grants the capabilities that inner jails need, and none on the host.

The inner jail is built per program: new PID, mount, IPC and network namespaces, a new tmpfs and a new /proc; then all
capabilities are dropped. The candidate is process 1 of its PID namespace, so its death ends every process that it ever
started, daemons and fork bombs included.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

from . import kernel
from .kernel import MS_BIND, MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_PRIVATE, MS_RDONLY, MS_REC, MS_RELATIME, MS_REMOUNT

INSIDE_ID = 1000
"""uid and gid of programs, as seen inside."""

_OUTER = (
    kernel.CLONE_NEWUSER
    | kernel.CLONE_NEWNS
    | kernel.CLONE_NEWPID
    | kernel.CLONE_NEWNET
    | kernel.CLONE_NEWIPC
    | kernel.CLONE_NEWUTS
    | kernel.CLONE_NEWCGROUP
)
_INNER = kernel.CLONE_NEWNS | kernel.CLONE_NEWIPC | kernel.CLONE_NEWNET
ACCOUNTS = {
    "/etc/passwd": f"candidate:x:{INSIDE_ID}:{INSIDE_ID}::/tmp:/bin/sh\n",
    "/etc/group": f"candidate:x:{INSIDE_ID}:\n",
}
DEVICES = ("null", "zero", "full", "random", "urandom")


class Root(NamedTuple):
    """Contents of a jail's file system, as paths of the host.

    ``folders`` are bind-mounted read-only; ``masked`` folders inside them appear empty; ``packages`` are files or
    folders mounted last, possibly inside masked ones; ``links`` maps symbolic links to targets.
    """

    folders: list[str]
    links: dict[str, str]
    masked: list[str]
    packages: list[str]


def visible_at(package: str) -> str:
    """Return the path of a package inside the jail: not below /tmp, where each program has its own tmpfs."""
    return "/packages" + package if package.startswith("/tmp/") else package


def has_capability(number: int) -> bool:
    """Return whether capability ``number`` is in the effective set of this process."""
    with open("/proc/self/status", encoding="ascii") as status:
        line = next(line for line in status if line.startswith("CapEff"))
    return bool(int(line.split()[1], 16) >> number & 1)


def enter(root: Root | None, uid: int) -> None:
    """Enter the outer jail; returns in a child process, which is process 1 of the jail's PID namespace.

    Without ``root``, the file system is already in place (bubblewrap, docker). ``uid`` is the host uid to which a
    worker started by root switches. The parent stays outside and exits together with the child. Raises OSError if the
    kernel refuses.
    """
    privileged = root is not None and os.geteuid() == 0 and has_capability(21)  # CAP_SYS_ADMIN
    if root is not None and privileged:
        kernel.unshare(kernel.CLONE_NEWNS)
        _build(root)
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        kernel.prctl(kernel.PR_SET_DUMPABLE, 1)  # cleared by the change of uid; uid_map would belong to root otherwise
    outside, group = os.getuid(), os.getgid()
    kernel.unshare(_OUTER)
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"{INSIDE_ID} {outside} 1")
    _write("/proc/self/gid_map", f"{INSIDE_ID} {group} 1")
    if root is not None and not privileged:
        _build(root)
    child = os.fork()
    if child:
        os.closerange(0, 1 << 20)  # the pool's pipes must close as soon as the child ends
        _, status = os.waitpid(child, 0)
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
    kernel.prctl(kernel.PR_SET_PDEATHSIG, 9)
    if os.getppid() != 0:  # 0: the parent is outside this PID namespace
        os._exit(1)
    kernel.mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)


def _build(root: Root) -> None:
    """Replace the root of this mount namespace with one that contains only ``root``."""
    kernel.mount(None, "/", None, MS_REC | MS_PRIVATE)
    # Assemble the new root on /tmp, which exists everywhere; the host's /tmp stays reachable as old/tmp.
    kernel.mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755,size=1m")  # a mount point
    os.mkdir("/tmp/old")
    kernel.pivot_root("/tmp", "/tmp/old")
    os.chdir("/")
    os.mkdir("/new")
    kernel.mount("tmpfs", "/new", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755,size=1m")
    for folder in root.folders:
        os.makedirs("/new" + folder, mode=0o755, exist_ok=True)
        kernel.mount("/old" + folder, "/new" + folder, None, MS_BIND | MS_REC)
        _remount_read_only("/new" + folder)
    for folder in root.masked:
        kernel.mount("tmpfs", "/new" + folder, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755,size=64k")
    for package in root.packages:
        place = "/new" + visible_at(package)
        _mount_point("/old" + package, place)
        kernel.mount("/old" + package, place, None, MS_BIND | MS_REC)
        _remount_read_only(place)
    for folder in root.masked:
        _remount_read_only("/new" + folder)
    for link, target in root.links.items():
        os.makedirs(os.path.dirname("/new" + link), mode=0o755, exist_ok=True)
        os.symlink(target, "/new" + link)
    for folder in ("dev", "proc", "tmp", "etc", "var"):
        os.makedirs("/new/" + folder, mode=0o755, exist_ok=True)
    os.symlink("/tmp", "/new/var/tmp")
    os.symlink("/tmp/.shm", "/new/dev/shm")
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        os.symlink(f"/proc/self/fd/{number}", f"/new/dev/{name}")
    os.symlink("/proc/self/fd", "/new/dev/fd")
    for path, text in ACCOUNTS.items():
        _write("/new" + path, text)
    for device in DEVICES:
        _write(f"/new/dev/{device}", "")
        kernel.mount(f"/old/dev/{device}", f"/new/dev/{device}", None, MS_BIND)
    # The kernel mounts a new /proc in an inner jail only while a complete one is visible. This one shows the host's
    # processes; each jail mounts its own over it before any candidate code runs.
    kernel.mount("/old/proc", "/new/proc", None, MS_BIND | MS_REC)
    kernel.mount(None, "/new", None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)
    os.chdir("/new")
    kernel.pivot_root(".", ".")
    kernel.unmount(".", kernel.MNT_DETACH)
    os.chdir("/")


def _mount_point(source: str, target: str) -> None:
    """Create the folder or empty file over which ``source`` is bind-mounted."""
    if os.path.isdir(source):
        os.makedirs(target, mode=0o755, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), mode=0o755, exist_ok=True)
        _write(target, "")


def _remount_read_only(folder: str) -> None:
    """Make a bind mount read-only, keeping its flags, which a user namespace may not clear."""
    flags = os.statvfs(folder).f_flag
    kept = flags & (MS_NODEV | MS_NOEXEC | os.ST_NOATIME | os.ST_NODIRATIME)  # same values in mount and statvfs
    kept |= MS_RELATIME if flags & os.ST_RELATIME else 0
    kernel.mount(None, folder, None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | kept)


def enter_inner(limits: dict[str, Any]) -> None:
    """Move a candidate process, which is process 1 of a new PID namespace, into its inner jail."""
    kernel.unshare(_INNER)
    kernel.mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    size, inodes = limits["tmp_bytes"], max(64, limits["tmp_bytes"] >> 12)
    kernel.mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, f"mode=700,size={size},nr_inodes={inodes}")
    os.mkdir("/tmp/.shm")
    if not os.path.islink("/dev/shm") and os.path.isdir("/dev/shm"):  # that of a container, shared by its programs
        kernel.mount("/tmp/.shm", "/dev/shm", None, MS_BIND)
    os.chdir("/tmp")


@contextlib.contextmanager
def scratch() -> Iterator[None]:
    """Provide a writable /tmp inside the block, for packages that need one on import."""
    kernel.mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "mode=700,size=16m")
    try:
        yield
    finally:
        kernel.unmount("/tmp", kernel.MNT_DETACH)


def mask(folders: list[str]) -> None:
    """Mount an empty read-only tmpfs over container folders that programs do not need or could write to."""
    for folder in folders:
        if os.path.isdir(folder):
            kernel.mount("tmpfs", folder, "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV, "mode=755,size=4k")


def own_pid_namespace() -> int:
    """Return a descriptor of this process's PID namespace, for :func:`restore_pid_namespace`."""
    return os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)


def new_pid_namespace(own: int) -> None:
    """Make the next child process 1 of a new PID namespace."""
    kernel.setns(own, kernel.CLONE_NEWPID)
    kernel.unshare(kernel.CLONE_NEWPID)


def restore_pid_namespace(own: int) -> None:
    """Start further children in this process's own PID namespace again."""
    kernel.setns(own, kernel.CLONE_NEWPID)


def _write(path: str, text: str) -> None:
    # os.write instead of a file object, whose creation would cost each candidate more than the write.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.write(descriptor, text.encode("ascii"))
    finally:
        os.close(descriptor)


def set_oom_score(score: int) -> None:
    """Set the priority with which the OOM killer selects this process; must be called while it is dumpable."""
    with contextlib.suppress(OSError):  # read-only /proc, as in some containers: the kernel selects by size
        _write("/proc/self/oom_score_adj", str(score))


def interpreter_root(packages: list[str]) -> Root:
    """Return the root for this interpreter: itself, its standard library and the system's shared libraries.

    ``packages`` are the paths of packages that programs may import.
    """
    folders, links = [], {}
    for name in ("usr", "lib", "lib32", "lib64", "libx32", "bin", "sbin"):
        path = "/" + name
        if os.path.islink(path):
            links[path] = os.readlink(path)
        elif os.path.isdir(path):
            folders.append(path)
    prefix = os.path.realpath(sys.base_prefix)
    if not any(prefix == folder or prefix.startswith(folder + "/") for folder in folders):
        folders.append(prefix)
    files = [path for path in ("/etc/ld.so.cache",) if os.path.isfile(path)]  # tells the loader about further folders
    return Root(folders, links, masked_folders(prefix, folders), [*packages, *files])


def masked_folders(prefix: str, folders: list[str]) -> list[str]:
    """Return the site-packages inside ``folders``; an installed benchmark would expose its solutions."""
    import glob  # its memory would be copied into every child

    patterns = [
        prefix + "/lib*/python3*/*-packages",
        "/usr/lib/python3*/*-packages",
        "/usr/local/lib/python3*/*-packages",
        "/usr/lib64/python3*/*-packages",
    ]
    found = {os.path.realpath(path) for pattern in patterns for path in glob.glob(pattern) if os.path.isdir(path)}
    return sorted(path for path in found if any(path.startswith(folder + "/") for folder in folders))
