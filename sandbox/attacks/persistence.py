"""Persistence attacks: pairs of programs in one worker; the second must find nothing that the first left behind."""

import os
import secrets

from crosstok.sandbox.attacks.attack import ANY, MEMORY_SEARCH, Attack, probe
from crosstok.sandbox.verdict import Status

PERSISTENCE: tuple[tuple[Attack, Attack], ...] = (
    (
        Attack(
            "message-of-a-test",
            "fails a test whose message tells the expected value",
            "def probe():\n    return 0\n",
            frozenset({Status.FAILED}),
            f"assert probe() == 1, 'expected-value-{secrets.token_hex(8)}'\n",
            "probe",
            frozenset({"pid"}),
        ),
        probe("find-message", "searches its memory for what the last program's tests said", MEMORY_SEARCH, "pid"),
    ),
    (
        probe(
            "plant-files",
            "plants files in every folder that takes them",
            """
            import os
            def probe():
                for folder in ("/tmp", "/dev/shm", "/var/tmp", ".", os.environ["HOME"], "/run", "/mnt"):
                    try:
                        with open(os.path.join(folder, "planted"), "w") as stream:
                            stream.write("x")
                        os.mkdir(os.path.join(folder, "locked"), 0o000)
                    except OSError:
                        pass
                return [] if os.path.exists("/tmp/planted") else ["could not plant"]
            """,
            "files",
        ),
        probe(
            "find-files",
            "looks for the planted files",
            """
            import os
            def probe():
                folders = ("/tmp", "/dev/shm", "/var/tmp", ".", "/run", "/mnt")
                return [os.path.join(f, n) for f in folders if os.path.isdir(f) for n in os.listdir(f) if n in ("planted", "locked")]
            """,
            "files",
        ),
    ),
    (
        probe(
            "poison-interpreter",
            "poisons modules, builtins, random state, folders, masks and limits of its interpreter",
            """
            import builtins, json, locale, os, random, resource, signal, sys
            def probe():
                builtins.len = lambda thing: 42
                json.dumps = json.loads = lambda *a, **k: "poisoned"
                os.write = os.read = None
                sys.path.insert(0, "/tmp")
                sys.modules["math"] = None
                sys.setrecursionlimit(5000)
                random.seed(99)
                os.umask(0)
                os.nice(20)
                os.environ["POISON"] = "1"
                os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
                resource.setrlimit(resource.RLIMIT_NOFILE, (10, 10))
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                return []
            """,
            "pid",
            expected=ANY,  # it may well poison itself so thoroughly that it cannot answer
        ),
        probe(
            "pristine-interpreter",
            "expects a pristine interpreter",
            f"""
            CORES = {len(os.sched_getaffinity(0))}
            import json, math, os, random, resource, signal, sys
            first = random.random()
            def probe():
                found = []
                if len([1]) != 1: found.append("len")
                if json.dumps([1]) != "[1]": found.append("json")
                if "/tmp" in sys.path: found.append("path")
                if sys.getrecursionlimit() != 1000: found.append("recursion limit")
                if random.Random(0).random() != first: found.append("random")
                if os.umask(0o22) == 0: found.append("umask")
                if os.nice(0) == 19: found.append("nice")  # not 0: a harness may be nice itself
                if "POISON" in os.environ: found.append("environment")
                if resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 10: found.append("limits")
                if signal.getsignal(signal.SIGTERM) is signal.SIG_IGN: found.append("signals")
                if os.getcwd() != "/tmp": found.append(os.getcwd())
                if len(os.sched_getaffinity(0)) == 1 < CORES: found.append("affinity")
                return found
            """,
            "pid",
        ),
    ),
    (
        probe(
            "leave-daemon",
            "leaves a process that will write files and listen on an abstract socket",
            """
            import os, socket, time
            def probe():
                if not os.fork():
                    os.setsid()
                    if os.fork():
                        os._exit(0)
                    s = socket.socket(socket.AF_UNIX)
                    s.bind("\\0left-behind")
                    s.listen()
                    while True:
                        with open("/tmp/left-behind", "w") as stream:
                            stream.write("x")
                        time.sleep(0.01)
                os.wait()
                while not os.path.exists("/tmp/left-behind"):
                    time.sleep(0.01)
                return []
            """,
            "pid",
            "files",
        ),
        probe(
            "find-daemon",
            "looks for the daemon, its file and its socket",
            """
            import os, socket, time
            def probe():
                time.sleep(0.2)
                found = [name for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()]
                if os.path.exists("/tmp/left-behind"):
                    found.append("file")
                try:
                    socket.socket(socket.AF_UNIX).connect("\\0left-behind")
                    found.append("socket")
                except OSError:
                    pass
                return found
            """,
            "pid",
            "files",
        ),
    ),
    (
        probe(
            "leave-ipc",
            "leaves System V shared memory, semaphores, messages and a POSIX queue",
            """
            import ctypes
            libc = ctypes.CDLL(None, use_errno=True)
            def probe():
                made = [libc.shmget(4711, 4096, 0o1666), libc.semget(4711, 1, 0o1666), libc.msgget(4711, 0o1666)]
                try:
                    ctypes.CDLL("librt.so.1").mq_open(b"/left", 0o102, 0o666, None)
                except (OSError, AttributeError):
                    pass
                return [] if min(made) >= 0 else ["could not leave any"]
            """,
            "ipc",
        ),
        probe(
            "find-ipc",
            "looks for System V and POSIX objects",
            """
            import ctypes
            libc = ctypes.CDLL(None, use_errno=True)
            def probe():
                found = [libc.shmget(4711, 0, 0), libc.semget(4711, 0, 0), libc.msgget(4711, 0)]
                return [number for number in found if number >= 0]
            """,
            "ipc",
        ),
    ),
)

DETERMINISM = probe(
    "determinism",
    "prints what two runs must have in common",
    """
    import locale, os, random, sys, time
    def probe():
        print(list({"a", "b", "c", "d", "e"}), hash("text"), random.random(), time.tzname, sys.getrecursionlimit(),
              sys.getdefaultencoding(), os.getcwd(), os.getuid(), sorted(os.environ.items()), os.sys.argv)
        return []
    """,
    "pid",
)
