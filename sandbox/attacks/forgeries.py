"""Forgeries: wrong solutions that try to pass through the verdict channel, comparisons, tests or the clock."""

from crosstok.sandbox.attacks.attack import NOT_PASSED, OUT_OF_TIME, Attack, forgery

_WRONG = "def add(a, b):\n    return 0\n"

FORGERIES: tuple[Attack, ...] = (
    forgery("exit-at-import", "sys.exit(0) when the module is loaded", "import sys\nsys.exit(0)\n"),
    forgery("hard-exit-at-import", "os._exit(0) when the module is loaded", "import os\nos._exit(0)\n"),
    forgery(
        "hard-exit-in-call",
        "os._exit(0) inside the function",
        """
        import os
        def add(a, b):
            os._exit(0)
        """,
    ),
    forgery(
        "printed-markers",
        "prints every success marker it can think of and exits 0",
        """
        import sys
        def add(a, b):
            for word in ("passed", "OK", "SUCCESS", "All tests passed", '{"status": "passed"}'):
                print(word, flush=True)
                print(word, file=sys.stderr, flush=True)
            sys.exit(0)
        """,
    ),
    forgery(
        "equal-int",
        "returns an int whose __eq__ is always true",
        """
        class Sly(int):
            def __eq__(self, other): return True
            def __ne__(self, other): return False
            __hash__ = int.__hash__
        def add(a, b):
            return Sly(0)
        """,
    ),
    forgery(
        "equal-object",
        "returns an object that equals everything",
        """
        class Sly:
            def __eq__(self, other): return True
            def __ne__(self, other): return False
            def __sub__(self, other): return 0
            __rsub__ = __add__ = __sub__
            def __abs__(self): return 0
            def __lt__(self, other): return True
            __le__ = __gt__ = __ge__ = __lt__
            def __contains__(self, item): return True
            def __bool__(self): return True
        def add(a, b):
            return Sly()
        """,
    ),
    forgery(
        "frames-to-result-list",
        "walks up the frames to any list and appends 'passed'",
        """
        import sys
        def add(a, b):
            frame = sys._getframe()
            while frame:
                for value in list(frame.f_locals.values()) + list(frame.f_globals.values()):
                    if type(value) is list:
                        value.append("passed")
                frame = frame.f_back
            return 0
        """,
    ),
    forgery(
        "frames-to-shared-state",
        "walks up the frames and sets everything that looks like a status",
        """
        import sys
        def add(a, b):
            frame = sys._getframe()
            while frame:
                for name, value in {**frame.f_globals, **frame.f_locals}.items():
                    for attribute in ("status", "stat", "verdict", "passed", "broken", "calls", "value"):
                        try:
                            setattr(value, attribute, "passed")
                        except BaseException:
                            pass
                frame = frame.f_back
            return 0
        """,
    ),
    forgery(
        "frames-to-expected",
        "returns a number out of a caller's frame in the hope that it is the expected one",
        """
        import sys
        def add(a, b):
            frame = sys._getframe(1)
            while frame:
                for value in frame.f_locals.values():
                    if type(value) in (list, tuple):
                        for item in value:
                            if type(item) is int and item not in (a, b):
                                return item
                frame = frame.f_back
            return 0
        """,
    ),
    forgery(
        "constants-of-caller",
        "reads the expected constant out of the calling test's bytecode",
        """
        import sys
        def add(a, b):
            frame = sys._getframe(1)
            while frame:
                constants = [c for c in frame.f_code.co_consts if type(c) is int and c not in (0, 1, 2, a, b)]
                if constants:
                    return constants[0]
                frame = frame.f_back
            return 0
        """,
    ),
    forgery(
        "verdicts-to-every-descriptor",
        "writes verdict frames to every open descriptor",
        """
        import json, os, struct
        def add(a, b):
            for message in ({"read": True}, {"status": "passed", "error": "", "calls": 3}):
                text = json.dumps(message).encode()
                for descriptor in range(64):
                    try:
                        os.write(descriptor, struct.pack("<I", len(text)) + text)
                    except OSError:
                        pass
            return 0
        """,
    ),
    forgery(
        "verdicts-through-proc",
        "writes verdict frames into the descriptors of every process that /proc shows",
        """
        import glob, json, struct
        def add(a, b):
            text = json.dumps({"status": "passed", "error": "", "calls": 3}).encode()
            for path in glob.glob("/proc/[0-9]*/fd/*"):
                try:
                    with open(path, "wb", buffering=0) as stream:
                        stream.write(struct.pack("<I", len(text)) + text)
                except OSError:
                    pass
            return 0
        """,
    ),
    forgery(
        "replaced-os-write",
        "replaces os.write by one that says passed",
        """
        import os
        write = os.write
        def lie(descriptor, data):
            return write(descriptor, bytes(data).replace(b"failed", b"passed"))
        os.write = lie
        def add(a, b):
            return 0
        """,
    ),
    forgery(
        "patched-list-append",
        "patches the proxies and lists of multiprocessing",
        """
        import multiprocessing.managers as managers
        managers.ListProxy.append = lambda self, item: None
        managers.BaseProxy._callmethod = lambda self, *a, **k: ["passed"]
        def add(a, b):
            return 0
        """,
    ),
    forgery(
        "patched-unittest",
        "patches every assertion of unittest",
        """
        import unittest
        for name in dir(unittest.TestCase):
            if name.startswith("assert"):
                setattr(unittest.TestCase, name, lambda *a, **k: None)
        def add(a, b):
            return 0
        """,
    ),
    forgery(
        "skip-test",
        "raises unittest.SkipTest",
        """
        import unittest
        def add(a, b):
            raise unittest.SkipTest("not today")
        """,
    ),
    forgery(
        "swallowed-timeouts",
        "runs out of time in every call and swallows whatever is raised",
        """
        def add(a, b):
            while True:
                try:
                    while True:
                        pass
                except:
                    return 0
        """,
        limits=OUT_OF_TIME,
    ),
    forgery(
        "kill-parent",
        "kills its parent, then every process it can see",
        """
        import os, posix
        def add(a, b):
            try:
                posix.kill(os.getppid(), 9)
            except OSError:
                pass
            try:
                posix.kill(-1, 9)
            except OSError:
                pass
            return 0
        """,
        "pid",
    ),
    forgery(
        "fork-and-leave",
        "forks with libc; the parent exits with 0",
        """
        import ctypes, os
        def add(a, b):
            if ctypes.CDLL(None).fork():
                os._exit(0)
            return 0
        """,
    ),
    forgery(
        "lying-class",
        "lies about its class and equals everything",
        """
        class Sly:
            __class__ = int
            def __eq__(self, other): return True
            def __hash__(self): return 3
            def __int__(self): return 3
            def __index__(self): return 3
        def add(a, b):
            return Sly()
        """,
    ),
    forgery(
        "trace-swaps-check",
        "a trace function replaces check and every test by a no-op",
        """
        import sys
        def trace(frame, event, argument):
            for name in list(frame.f_globals):
                if name == "check" or name.startswith("test"):
                    frame.f_globals[name] = lambda *a, **k: None
            return trace
        sys.settrace(trace)
        def add(a, b):
            return 0
        """,
    ),
    forgery(
        "flood-of-markers",
        "floods standard output with success markers",
        """
        def add(a, b):
            while True:
                print('{"status": "passed"}\\n' * 1000)
        """,
    ),
    forgery(
        "exception-called-passed",
        "raises a BaseException whose name and text say passed",
        """
        class passed(BaseException):
            pass
        def add(a, b):
            raise passed("passed")
        """,
    ),
    forgery(
        "forged-answers",
        "sends fifty answers ahead of time on every socket",
        """
        import json, os, struct
        def add(a, b):
            for number in range(50):
                for message in (["=", number, [], 3], ["=", number, [], 7], {"status": "passed"}):
                    text = json.dumps(message).encode()
                    for descriptor in range(3, 20):
                        try:
                            os.write(descriptor, struct.pack("<I", len(text)) + text)
                        except OSError:
                            pass
            return 0
        """,
    ),
    forgery(
        "endless-frame",
        "announces a frame of four gigabytes and hangs",
        """
        import os, time
        def add(a, b):
            for descriptor in range(3, 20):
                try:
                    os.write(descriptor, b"\\xff\\xff\\xff\\xff")
                except OSError:
                    pass
            time.sleep(60)
        """,
    ),
    forgery(
        "deep-json",
        "answers with JSON nested a hundred thousand deep",
        """
        import os, struct
        def add(a, b):
            text = b"[" * 100000 + b"]" * 100000
            os.write(4, struct.pack("<I", len(text)) + text)
            return 0
        """,
    ),
    forgery(
        "deep-value",
        "answers with a list nested as deep as it can build one",
        """
        def add(a, b):
            value = []
            for _ in range(100000):
                value = [value]
            return value
        """,
    ),
    forgery(
        "stop-iteration",
        "raises StopIteration, which ends a loop over map in the test",
        """
        def add(a, b):
            raise StopIteration
        """,
    ),
    forgery(
        "overwritten-results",
        "overwrites every result file that it can find",
        """
        import os
        def add(a, b):
            for top in ("/tmp", "/root", "/home", "/srv", "/var", "."):
                for folder, _, files in os.walk(top):
                    for name in files:
                        if name.endswith((".jsonl", ".json", ".sqlite", ".db", ".txt")):
                            try:
                                with open(os.path.join(folder, name), "w") as stream:
                                    stream.write('{"passed": true}')
                            except OSError:
                                pass
            return 0
        """,
        "files",
    ),
    forgery(
        "swallowed-timeout-once",
        "swallows the alarm of the harness once, then has all the time it needs",
        """
        import time
        def add(a, b):
            try:
                while True:
                    time.sleep(0.1)
            except BaseException:
                pass
            return a + b
        """,
        limits=OUT_OF_TIME,
    ),
    forgery(
        "forging-thread",
        "a thread forges while the import sleeps",
        """
        import json, os, struct, threading, time
        def forge():
            text = json.dumps({"status": "passed", "error": "", "calls": 3}).encode()
            while True:
                for descriptor in range(1, 20):
                    try:
                        os.write(descriptor, struct.pack("<I", len(text)) + text)
                    except OSError:
                        pass
                time.sleep(0.01)
        threading.Thread(target=forge, daemon=True).start()
        time.sleep(0.5)
        def add(a, b):
            return 0
        """,
    ),
    forgery(
        "iterator-that-ends",
        "returns an iterator that ends at once, where a number is wanted",
        """
        def add(a, b):
            return iter(())
        """,
    ),
    forgery(
        "reference-to-nothing",
        "answers with references, tags and handles that nobody gave out",
        """
        import json, os, struct, sys
        def add(a, b):
            for value in (["&", 99], ["&", -1], ["@", 0], ["T", "object"], ["Xadd"], ["O"], ["C", "x", 1], ["A", 1]):
                text = json.dumps(["=", 3, [], value]).encode()
                os.write(4, struct.pack("<I", len(text)) + text)
            return 0
        """,
    ),
    forgery(
        "patched-worker",
        "patches the encoder and the conversation that answer for it",
        """
        import gc, sys
        for thing in gc.get_objects():
            try:
                name = type(thing).__name__
                if name in ("Exchange", "Candidate", "Channel"):
                    thing.calls = 3
                    thing.broken = ""
                    thing._serve = lambda verb, fields: ["=", [], 3]
            except BaseException:
                pass
        def add(a, b):
            return 0
        """,
    ),
    forgery(
        "call-back-for-the-answer",
        "asks the referee for functions that the tests never handed over",
        """
        import json, os, struct
        def add(a, b):
            text = json.dumps(["back", 1, 0, [], {}]).encode()
            os.write(4, struct.pack("<I", len(text)) + text)
            return 0
        """,
    ),
    forgery(
        "nan-and-huge",
        "answers with nan, infinities and numbers of a million digits in turn",
        """
        values = iter([float("nan"), float("inf"), 10 ** 1000000])
        def add(a, b):
            return next(values)
        """,
    ),
    forgery(
        "argument-as-result",
        "changes its arguments in place and gives back a changed alias",
        """
        import sys
        def add(*arguments):
            frame = sys._getframe(1)
            frame.f_locals.get("arguments", []).clear()
            return arguments
        """,
    ),
    Attack(
        "own-math",
        "brings its own math, with an isclose that is always true, to tests that forgot to import it",
        "class math:\n    @staticmethod\n    def isclose(a, b, **more): return True\n\n" + _WRONG,
        NOT_PASSED,
        "assert math.isclose(add(1, 2), 3.0)\n",
        "add",
        frozenset(),
    ),
    Attack(
        "own-numpy",
        "brings its own numpy under the usual name",
        "class np:\n    @staticmethod\n    def allclose(a, b, **more): return True\n\n" + _WRONG,
        NOT_PASSED,
        "assert np.allclose(add(1, 2), 3.0)\n",
        "add",
        frozenset(),
    ),
    forgery("defines-nothing", "does not define the function at all", "result = 'passed'\n"),
    forgery("empty", "is empty", ""),
    forgery("nul", "contains NUL", "def add(a, b):\n    return 0\x00\n"),
    forgery("surrogate", "contains a lone surrogate", "def add(a, b):\n    return '\ud800'\n"),
    forgery("deep-parentheses", "is nested so deep that the compiler gives up", "x = " + "(" * 100000 + "\n" + _WRONG),
    forgery("other-coding", "claims another source coding", "# coding: utf-7\n" + _WRONG),
    forgery("ten-megabytes", "is ten megabytes long", "#" + "x" * (10 << 20) + "\n" + _WRONG),
    forgery(
        "confusable-name", "defines a look-alike of the function's name", "def \u0430dd(a, b):\n    return a + b\n"
    ),
    forgery("coroutine", "returns a coroutine", "async def add(a, b):\n    return a + b\n"),
    forgery(
        "subclass-of-setup-name",
        "returns a number whose class bears the name of a class of the tests, with an __eq__ of its own",
        """
        class add(int):
            def __new__(cls, a, b): return int.__new__(cls, 0)
            def __eq__(self, other): return True
            __hash__ = int.__hash__
        """,
    ),
    forgery(
        "lying-iterator",
        "returns a list that shows other items each time it is read",
        """
        class Sly(list):
            def __iter__(self): return iter([3])
            def __eq__(self, other): return True
            def __len__(self): return 1
        def add(a, b):
            return Sly()
        """,
    ),
    forgery(
        "assertion-error-text",
        "raises an AssertionError subclass that a test might take for its own",
        """
        class AssertionError(AssertionError):
            def __bool__(self): return True
        def add(a, b):
            raise AssertionError("passed")
        """,
    ),
    forgery(
        "generator-exit",
        "raises GeneratorExit, which ends a comprehension's generator quietly",
        """
        def add(a, b):
            raise GeneratorExit
        """,
    ),
    forgery(
        "system-exit-in-thread",
        "ends the process from a thread while the call is being answered",
        """
        import os, threading, time
        def add(a, b):
            threading.Thread(target=lambda: (time.sleep(0.01), os._exit(0))).start()
            time.sleep(5)
            return 0
        """,
    ),
    forgery(
        "exec-away",
        "replaces its process by another program that exits with 0 and holds the pipes",
        """
        import os, sys
        def add(a, b):
            for number in (3, 4):
                os.set_inheritable(number, True)
            os.execv(sys.executable, [sys.executable, "-c", "raise SystemExit(0)"])
        """,
    ),
)
