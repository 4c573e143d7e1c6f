"""Exhaustion attacks: programs that consume time, memory by every route, processes, disk, descriptors or output."""

import textwrap

from crosstok.sandbox.attacks.attack import ANY, NOT_PASSED, OUT_OF_TIME, PASSED, Attack, exhaustion
from crosstok.sandbox.verdict import Status

_TIMEOUT = frozenset({Status.TIMEOUT})
_OUTPUT = frozenset({Status.OUTPUT_LIMIT})
_ENDS = frozenset({Status.PASSED, Status.TIMEOUT, Status.ERROR, Status.FAILED, Status.MEMORY})

EXHAUSTION: tuple[Attack, ...] = (
    exhaustion(
        "busy-loop", "loops for ever", "def f():\n    while True:\n        pass\n", _TIMEOUT, limits=OUT_OF_TIME
    ),
    exhaustion(
        "sleep",
        "sleeps past the limit",
        "import time\ndef f():\n    time.sleep(100)\n    return 1\n",
        _TIMEOUT,
        limits=OUT_OF_TIME,
    ),
    exhaustion(
        "one-allocation", "allocates 8 GB at once", "def f():\n    return len(bytearray(8 << 30))\n", NOT_PASSED
    ),
    exhaustion(
        "page-by-page",
        "takes memory until it is refused, and swallows the refusal",
        """
        def f():
            kept = []
            try:
                while True:
                    kept.append(b"x" * (1 << 20))
            except MemoryError:
                return 1
        """,
        ANY,
    ),
    exhaustion(
        "fork-bomb",
        "forks for ever",
        """
        import os
        def f():
            while True:
                try:
                    os.fork()
                except OSError:
                    pass
        """,
        NOT_PASSED,
        limits=OUT_OF_TIME,
    ),
    exhaustion(
        "thread-bomb",
        "starts threads until it is refused",
        """
        import threading, time
        def f():
            try:
                while True:
                    threading.Thread(target=time.sleep, args=(100,), daemon=True).start()
            except RuntimeError:
                return 1
        """,
        _ENDS,
    ),
    exhaustion(
        "process-count",
        "counts the children that it may have at a time",
        """
        import os, time
        def f():
            children = 0
            try:
                while children < 200:
                    if not os.fork():
                        time.sleep(100)
                        os._exit(0)
                    children += 1
            except OSError:
                pass
            assert 8 <= children <= 70, children
            return 1
        """,
        PASSED,
        "processes",
    ),
    exhaustion("endless-output", "prints for ever", "def f():\n    while True:\n        print('x' * 10000)\n", _OUTPUT),
    exhaustion(
        "endless-errors",
        "writes to standard error for ever, from a child",
        """
        import os
        def f():
            if not os.fork():
                while True:
                    os.write(2, b"x" * 65536)
            os.wait()
        """,
        _OUTPUT,
    ),
    exhaustion("one-print", "prints 200 MB at once", "def f():\n    print('x' * (200 << 20))\n    return 1\n", _OUTPUT),
    exhaustion(
        "full-tmp",
        "fills /tmp",
        """
        def f():
            written = 0
            try:
                for number in range(1000):
                    with open(f"/tmp/{number}", "wb") as stream:
                        written += stream.write(b"x" * (1 << 20))
            except OSError:
                pass
            assert written <= 32 << 20, written
            return 1
        """,
        PASSED,
        "files",
    ),
    exhaustion(
        "inodes",
        "makes files until it is refused",
        """
        def f():
            made = 0
            try:
                while made < 200000:
                    open(f"/tmp/{made}", "w").close()
                    made += 1
            except OSError:
                pass
            assert made < 20000, made
            return 1
        """,
        PASSED,
        "files",
    ),
    exhaustion(
        "descriptors",
        "opens files until it is refused",
        """
        import os
        def f():
            opened = 0
            try:
                while True:
                    os.open("/dev/null", os.O_RDONLY)
                    opened += 1
            except OSError:
                assert opened <= 128
                return 1
        """,
        PASSED,
    ),
    exhaustion(
        "recursion",
        "recurses without a limit until the C stack ends",
        """
        import sys
        def f():
            sys.setrecursionlimit(10 ** 9)
            class Deep:
                def __getattr__(self, name):
                    return getattr(self, name + "x")
            def down(n):
                return [down(n + 1)]
            return eval("down(0)", {"down": lambda n: sorted([1, 2], key=lambda _: down(n))})
        """,
        NOT_PASSED,
    ),
    exhaustion(
        "huge-power",
        "computes a huge power in one C call",
        "def f():\n    return 3 ** (10 ** 9) > 1\n",
        NOT_PASSED,
        limits=OUT_OF_TIME,
    ),
    exhaustion(
        "regex",
        "backtracks for ever in one C call",
        "import re\ndef f():\n    return re.match(r'(a+)+$', 'a' * 64 + 'b')\n",
        _TIMEOUT,
        limits=OUT_OF_TIME,
    ),
    exhaustion(
        "zip-bomb",
        "unpacks a bomb",
        """
        import bz2
        def f():
            block = bz2.compress(bytes(1 << 22))
            return len(bz2.decompress(block * 4000)) > 0
        """,
        NOT_PASSED,
    ),
    exhaustion(
        "ignored-signals",
        "ignores every signal and spins",
        """
        import signal
        def f():
            for number in range(1, 65):
                try:
                    signal.signal(number, signal.SIG_IGN)
                except (OSError, ValueError):
                    pass
            while True:
                pass
        """,
        _TIMEOUT,
        limits=OUT_OF_TIME,
    ),
    exhaustion(
        "memfds",
        "fills memory files, which no limit of address space counts",
        """
        import os
        def f():
            block = b"x" * (1 << 20)
            for _ in range(100):
                descriptor = os.memfd_create("hoard")
                for _ in range(40):
                    os.write(descriptor, block)
            return 1
        """,
        ANY,
        "memory-total",
    ),
    exhaustion(
        "fork-times-memory",
        "has forty children of 200 MB each",
        """
        import os, time
        def f():
            for _ in range(40):
                if not os.fork():
                    hoard = b"x" * (200 << 20)
                    time.sleep(2)
                    os._exit(0)
            time.sleep(2)
            return 1
        """,
        ANY,
        "memory-total",
    ),
    exhaustion(
        "endless-generator",
        "returns an endless generator",
        "import itertools\ndef f():\n    return itertools.count()\n",
        NOT_PASSED,
    ),
    exhaustion(
        "hundred-million", "returns a hundred million items", "def f():\n    return [0] * 10 ** 8\n", NOT_PASSED
    ),
    exhaustion(
        "closed-output",
        "closes its own output, then answers",
        """
        import os, sys
        def f():
            sys.stdout.close()
            os.close(1)
            os.close(2)
            return 1
        """,
        ANY,
    ),
    exhaustion(
        "self-stop",
        "stops itself and its children with SIGSTOP",
        """
        import os, signal
        def f():
            if not os.fork():
                os.kill(os.getpid(), signal.SIGSTOP)
                os._exit(0)
            os.wait()
        """,
        _TIMEOUT,
        limits=OUT_OF_TIME,
    ),
    exhaustion(
        "daemon",
        "leaves a daemon that holds the output and the socket for an hour; its answer is right",
        """
        import os, time
        def f():
            if not os.fork():
                os.setsid()
                if not os.fork():
                    time.sleep(3600)
                os._exit(0)
            return 1
        """,
        PASSED,
        "pid",
    ),
    exhaustion(
        "respawning-daemon",
        "leaves a daemon that starts itself anew when signalled, and exits",
        """
        import os, signal, time
        def f():
            if not os.fork():
                os.setsid()
                def again(*_):
                    os.fork()
                for number in (1, 2, 3, 10, 12, 14, 15):
                    signal.signal(number, again)
                while True:
                    time.sleep(1)
            os._exit(0)
        """,
        NOT_PASSED,
        "pid",
    ),
    exhaustion(
        "zombies",
        "starts children that it never waits for",
        """
        import os
        def f():
            for _ in range(5000):
                try:
                    if not os.fork():
                        os._exit(0)
                except OSError:
                    return 1
            return 1
        """,
        _ENDS,
    ),
    exhaustion("segfault", "reads address zero", "import ctypes\ndef f():\n    ctypes.string_at(0)\n", NOT_PASSED),
    exhaustion("abort", "calls abort()", "import os\ndef f():\n    os.abort()\n", NOT_PASSED),
    exhaustion(
        "pipe-buffers",
        "fills big pipe buffers, which are the kernel's memory",
        """
        import fcntl, os
        def f():
            try:
                for _ in range(60):
                    reader, writer = os.pipe()
                    fcntl.fcntl(writer, 1031, 1 << 20)
                    os.set_blocking(writer, False)
                    os.write(writer, b"x" * (1 << 20))
            except OSError:
                pass
            return 1
        """,
        PASSED,
    ),
    exhaustion(
        "sparse-file",
        "makes a sparse file of a terabyte",
        """
        def f():
            with open("/tmp/sparse", "wb") as stream:
                stream.truncate(1 << 40)
            return 1
        """,
        ANY,
    ),
    exhaustion(
        "exit-instead", "calls sys.exit(0) instead of answering", "import sys\ndef f():\n    sys.exit(0)\n", NOT_PASSED
    ),
    Attack(
        "slow-drip",
        "answers each call within the limit, which all calls together exceed",
        textwrap.dedent("""
        import time
        def f():
            end = time.process_time() + 0.2
            while time.process_time() < end:
                pass
            return 1
        """),
        _TIMEOUT,
        "for _ in range(10):\n    assert f() == 1\n",
        "f",
        limits=OUT_OF_TIME,
    ),
    exhaustion(
        "deep-pickle",
        "answers with a list that contains itself",
        "def f():\n    x = []\n    x.append(x)\n    return x\n",
        NOT_PASSED,
    ),
    exhaustion(
        "million-prints",
        "prints a million short lines",
        "def f():\n    for number in range(1000000):\n        print(number)\n    return 1\n",
        _OUTPUT,
    ),
    exhaustion(
        "stdin",
        "waits for input",
        "def f():\n    try:\n        input()\n    except EOFError:\n        return 1\n",
        PASSED,
    ),
    exhaustion(
        "hoarded-children",
        "has children that each take memory in small pieces, and never waits for them",
        """
        import os, time
        def f():
            for _ in range(30):
                try:
                    if not os.fork():
                        hoard = [bytearray(1 << 20) for _ in range(100)]
                        time.sleep(2)
                        os._exit(0)
                except OSError:
                    break
            time.sleep(1)
            return 1
        """,
        ANY,
        "memory-total",
    ),
    exhaustion(
        "shared-memory",
        "fills System V and POSIX shared memory",
        """
        import ctypes, mmap
        libc = ctypes.CDLL(None)
        def f():
            for number in range(100):
                key = libc.shmget(0, 64 << 20, 0o1666)
                if key < 0:
                    break
                libc.shmat.restype = ctypes.c_void_p
                place = libc.shmat(key, None, 0)
                if place in (None, ctypes.c_void_p(-1).value):
                    break
                ctypes.memset(place, 1, 64 << 20)
                libc.shmdt(ctypes.c_void_p(place))
            return 1
        """,
        ANY,
        "memory-total",
        "ipc",
    ),
    exhaustion(
        "shared-mapping",
        "shares anonymous memory with its children, in which all of them write",
        """
        import mmap, os
        def f():
            kept = []
            try:
                while True:
                    block = mmap.mmap(-1, 64 << 20)
                    kept.append(block)
                    if not os.fork():
                        for place in range(0, 64 << 20, 4096):
                            block[place] = 1
                        os._exit(0)
                    os.wait()
            except (OSError, MemoryError):
                return 1
        """,
        ANY,
        "memory-total",
    ),
    exhaustion(
        "huge-text",
        "turns a huge number into decimal digits",
        """
        import sys
        def f():
            sys.set_int_max_str_digits(0)
            return len(str(1 << 200_000_000)) > 0
        """,
        NOT_PASSED,
        limits=OUT_OF_TIME,
    ),
    exhaustion(
        "compiler-memory",
        "has the compiler fold a constant of many gigabytes",
        'def f():\n    return len(eval("(((\'x\' * 4096) * 4096) * 4096)" + " * 4096"))\n',
        NOT_PASSED,
    ),
    exhaustion(
        "quadratic-hash",
        "fills a dictionary with keys that all collide",
        """
        class Same:
            def __hash__(self): return 1
            def __eq__(self, other): return self is other
        def f():
            return len({Same(): None for _ in range(1_000_000)})
        """,
        _TIMEOUT,
        limits=OUT_OF_TIME,
    ),
    exhaustion(
        "exit-handlers",
        "answers, and hangs in what runs at exit",
        """
        import atexit, threading, time
        atexit.register(time.sleep, 1000)
        threading.Thread(target=time.sleep, args=(1000,)).start()
        def f():
            return 1
        """,
        PASSED,
    ),
    exhaustion(
        "descriptor-flood",
        "passes descriptors to itself over a socket until the kernel refuses",
        """
        import os, socket
        def f():
            left, right = socket.socketpair()
            left.setblocking(False)
            try:
                for _ in range(100_000):
                    socket.send_fds(left, [b"x"], [0, 1, 2])
            except OSError:
                pass
            return 1
        """,
        PASSED,
    ),
    exhaustion(
        "vfork-bomb",
        "starts copies of the interpreter that start copies",
        """
        import subprocess, sys
        code = "import subprocess, sys\\nwhile True:\\n    subprocess.Popen([sys.executable, '-c', sys.argv[1], sys.argv[1]])"
        def f():
            started = []
            while True:
                try:
                    started.append(subprocess.Popen([sys.executable, "-c", code, code], stderr=subprocess.DEVNULL))
                except OSError:
                    pass
        """,
        NOT_PASSED,
        limits=OUT_OF_TIME,
    ),
)
