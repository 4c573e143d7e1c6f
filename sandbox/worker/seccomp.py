"""Seccomp filter for candidates: an assembled BPF program with a deny list of system calls per architecture.

It is a second line of defence behind namespaces and dropped capabilities. It denies new namespaces (the usual first
step of a kernel exploit), kernel interfaces with a long record of vulnerabilities, and sockets other than Unix sockets.
Denied calls return EPERM; ``clone3`` returns ENOSYS, so that libc falls back to ``clone``, whose flags a filter can
inspect.
"""

import os
import socket
import struct

_LOAD, _EQUAL, _SET, _GREATER_EQUAL, _RETURN = 0x20, 0x15, 0x45, 0x35, 0x06
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_EPERM, _ENOSYS, _EAFNOSUPPORT = 1, 38, 97
_NUMBER, _ARCH, _ARGUMENT0 = 0, 4, 16
_X32 = 0x40000000
_NAMESPACE_FLAGS = 0x7E020080  # every CLONE_NEW* flag

_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

# name: (x86_64, aarch64); -1 if the architecture lacks the call
_DENIED = {
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "pidfd_getfd": (438, 438), "process_madvise": (440, 440),
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41),
    "chroot": (161, 51), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
    "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442),
    "mknod": (133, -1), "mknodat": (259, 33),
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426), "io_uring_register": (427, 427), "keyctl": (250, 219), "add_key": (248, 217),
    "request_key": (249, 218), "open_by_handle_at": (304, 265), "name_to_handle_at": (303, 264),
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "init_module": (175, 105), "finit_module": (313, 273),
    "delete_module": (176, 106), "reboot": (169, 142), "swapon": (167, 224), "swapoff": (168, 225),
    "acct": (163, 89), "quotactl": (179, 60), "quotactl_fd": (443, 443), "settimeofday": (164, 170),
    "clock_settime": (227, 112), "clock_adjtime": (305, 266), "adjtimex": (159, 171), "sethostname": (170, 161),
    "setdomainname": (171, 162), "iopl": (172, -1), "ioperm": (173, -1), "modify_ldt": (154, -1),
    "lookup_dcookie": (212, 18), "nfsservctl": (180, 42), "vhangup": (153, 58), "syslog": (103, 116),
    "fanotify_init": (300, 262), "fanotify_mark": (301, 263), "personality": (135, 92), "seccomp": (317, 277),
    "move_pages": (279, 239), "migrate_pages": (256, 238), "mbind": (237, 235), "set_mempolicy": (238, 237),
    "vmsplice": (278, 75), "memfd_secret": (447, 447), "uselib": (134, -1), "ustat": (136, -1), "sysfs": (139, -1),
}  # fmt: skip
_CLONE, _CLONE3, _SOCKET, _FORK, _VFORK = (56, 220), (435, 435), (41, 198), (57, -1), (58, -1)


def _instruction(code: int, operand: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, operand)


def _deny(number: int, error: int) -> bytes:
    return _instruction(_EQUAL, number, 0, 1) + _instruction(_RETURN, _ERRNO | error)


def program(*, processes: bool = True) -> bytes:
    """Return the filter for this machine's architecture; with ``processes=False`` it also denies forks.

    Raises KeyError on an unsupported architecture.
    """
    machine = os.uname().machine
    column = {"x86_64": 0, "aarch64": 1}[machine]
    out = [
        _instruction(_LOAD, _ARCH),
        _instruction(_EQUAL, _AUDIT_ARCH[machine], 1, 0),
        _instruction(_RETURN, _KILL),  # 32-bit entry points of the kernel
        _instruction(_LOAD, _NUMBER),
    ]
    if column == 0:
        out += [_instruction(_GREATER_EQUAL, _X32, 0, 1), _instruction(_RETURN, _ERRNO | _ENOSYS)]
    denied = [numbers[column] for numbers in _DENIED.values()]
    if not processes:
        denied += [_FORK[column], _VFORK[column]]
    out += [_deny(number, _EPERM) for number in sorted(denied) if number >= 0]
    out += [_deny(_CLONE3[column], _ENOSYS)]
    # clone: no new namespace; without processes, threads only. Both architectures pass the flags as first argument.
    clone = [_instruction(_LOAD, _ARGUMENT0), _instruction(_SET, _NAMESPACE_FLAGS, 0, 1)]
    clone += [_instruction(_RETURN, _ERRNO | _EPERM)]
    if not processes:
        clone += [_instruction(_SET, 0x00010000, 1, 0), _instruction(_RETURN, _ERRNO | _EPERM)]  # CLONE_THREAD
    clone += [_instruction(_RETURN, _ALLOW)]
    out += [_instruction(_EQUAL, _CLONE[column], 0, len(clone)), *clone]
    out += [
        _instruction(_EQUAL, _SOCKET[column], 0, 4),
        _instruction(_LOAD, _ARGUMENT0),
        _instruction(_EQUAL, socket.AF_UNIX, 0, 1),
        _instruction(_RETURN, _ALLOW),
        _instruction(_RETURN, _ERRNO | _EAFNOSUPPORT),
    ]
    out += [_instruction(_RETURN, _ALLOW)]
    return b"".join(out)
