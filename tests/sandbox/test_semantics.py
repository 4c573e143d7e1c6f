"""Semantics of tests in another process than the candidate: what they may do with it, and the verdict of each outcome."""

from dataclasses import replace

import pytest

from crosstok import sandbox
from crosstok.sandbox import Limits, Mode, Pool, Program, Status


def judge(pool: Pool, candidate: str, tests: str, entry_point: str = "f", **more: object) -> sandbox.Verdict:
    program = replace(Program("x", candidate, tests, entry_point), **more)  # type: ignore[arg-type]  # fields by name
    return next(pool.run([program]))


PASSING = {
    "arguments changed in place": (
        "def f(l):\n    l.sort()\n    l.append([l])\n    return l\n",
        "x = [3, 1, 2]\ny = f(x)\nassert y is x and x[:3] == [1, 2, 3] and x[3][0] is x\n",
    ),
    "classes of the candidate": (
        "class Pair:\n    def __init__(self, a, b):\n        self.a = a; self.b = b\n    def __len__(self):\n        return 2\n"
        "def f(pairs):\n    return max(p.b - p.a for p in pairs)\n",
        "assert f([Pair(1, 2), Pair(3, 7)]) == 4\np = Pair(1, 2)\np.a = 5\nassert p.a == 5 and isinstance(p, Pair) and len(p) == 2\n",
    ),
    "closures": ("def f(n):\n    return lambda x: x + n\n", "assert f(3)(4) == 7\n"),
    "functions of the tests": (
        "def f(g, xs):\n    return [g(x) for x in xs]\n",
        "seen = []\ndef g(x):\n    seen.append(x)\n    return 2 * x\nassert f(g, [1, 2]) == [2, 4] and seen == [1, 2]\n",
    ),
    "a test's function that raises": (
        "def f(g):\n    try:\n        g()\n    except KeyError:\n        return 1\n",
        "def g():\n    raise KeyError('x')\nassert f(g) == 1\n",
    ),
    "generators": (
        "def f(n):\n    yield from range(n)\n    raise ValueError('end')\n",
        "it = f(3)\nassert [next(it) for _ in range(3)] == [0, 1, 2]\n"
        "try:\n    next(it)\nexcept ValueError as e:\n    assert str(e) == 'end'\nelse:\n    assert False\n",
    ),
    "endless generators": (
        "import itertools\ndef f():\n    return itertools.count()\n",
        "import itertools\nassert list(itertools.islice(f(), 100)) == list(range(100))\n",
    ),
    "exceptions of the candidate's own": (
        "class My(ValueError):\n    pass\ndef f(x):\n    raise My('no', x)\n",
        "try:\n    f(3)\nexcept My as e:\n    assert e.args == ('no', 3)\nelse:\n    assert False\n",
    ),
    "builtin exceptions": (
        "def f(d):\n    return d['k']\n",
        "try:\n    f({})\nexcept KeyError as e:\n    assert str(e) == \"'k'\"\nelse:\n    assert False\n",
    ),
    "types as arguments": ("def f(t):\n    return t is int\n", "assert f(int)\n"),
    "modules that only the candidate imports": (
        "import math\ndef f():\n    return 3.0\n",
        "assert f() == math.floor(3.9)\n",
    ),
    "module data": ("LIMIT = 7\ndef f():\n    return LIMIT\n", "assert f() == LIMIT\n"),
    "dataclasses": (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\n"
        "def f():\n    return P(3)\n",
        "assert f().x == 3\n",
    ),
    "source of the candidate": (
        "import inspect\ndef f():\n    return inspect.getsource(f)\n",
        "assert f().startswith('def f')\n",
    ),
    "subprocesses of the candidate": (
        "import os\ndef f():\n    pid = os.fork()\n    if not pid:\n        os._exit(7)\n    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])\n",
        "assert f() == 7\n",
    ),
    "temporary files": (
        "import tempfile\ndef f():\n    with tempfile.NamedTemporaryFile() as t:\n        t.write(b'x')\n    return 1\n",
        "assert f() == 1\n",
    ),
    "patched guards": (
        "import os, json\nos.write = None\njson.dumps = None\ndef f():\n    return 1\n",
        "assert f() == 1\n",
    ),
}


@pytest.mark.parametrize("case", list(PASSING))
def test_tests_can_use(pool: Pool, case: str) -> None:
    candidate, tests = PASSING[case]
    verdict = judge(pool, candidate, tests)
    assert verdict.passed, verdict


def test_classes_of_the_setup_cross_as_their_attributes(pool: Pool) -> None:
    setup = "class Node:\n    def __init__(self, val, next=None):\n        self.val = val; self.next = next\n"
    candidate = "class Solution:\n    def f(self, n):\n        n.next = Node(5)\n        return n\n"
    tests = "n = Node(1)\nr = Solution().f(n)\nassert r is n and n.next.val == 5 and type(n.next) is Node\n"
    assert judge(pool, candidate, tests, "Solution", setup=setup).passed


def test_the_entry_point_may_be_an_expression(pool: Pool) -> None:
    candidate = "class Solution:\n    def add(self, a, b):\n        return a + b\n"
    assert judge(pool, candidate, "def check(c):\n    assert c(1, 2) == 3\n", "Solution().add").passed


def test_a_comparison_never_reaches_the_candidate(pool: Pool) -> None:
    candidate = "class Sly:\n    def __eq__(self, other):\n        return True\n    __contains__ = __lt__ = __eq__\n    def __rsub__(self, o):\n        return 0\ndef f():\n    return Sly()\n"
    for tests in (
        "assert f() == 3\n",
        "assert 3 in f()\n",
        "assert f() < 3\n",
        "assert 3 - f() == 0\n",
        "assert f() in [3]\n",
    ):
        assert judge(pool, candidate, tests).status in (Status.FAILED, Status.ERROR)


def test_only_the_entry_point_may_shadow_a_builtin(pool: Pool) -> None:
    assert judge(pool, "def sum(a, b):\n    return a - b\n", "assert sum(3, 1) == 2\n", "sum").passed
    lie = "def all(_):\n    return True\ndef f():\n    return [0]\n"
    assert judge(pool, lie, "assert all(x == 1 for x in f())\n").status is Status.FAILED


@pytest.mark.parametrize(
    ("candidate", "tests", "status", "word"),
    [
        ("def f():\n    return 2\n", "assert f() == 1, 'two'\n", Status.FAILED, "two"),
        ("def f():\n    return 1 / 0\n", "assert f() == 1\n", Status.ERROR, "ZeroDivisionError"),
        ("def f(:\n", "assert f() == 1\n", Status.ERROR, "SyntaxError"),
        ("x = 1\n", "assert f() == 1\n", Status.ERROR, "does not define 'f'"),
        ("def f():\n    assert False\n", "assert f() == 1\n", Status.ERROR, "AssertionError"),
        ("def f():\n    return 1\n", "pass\n", Status.FAILED, "0 calls"),
        ("def f():\n    return 1\n", "assert (\n", Status.SANDBOX_ERROR, "tests cannot be compiled"),
        ("def f():\n    return 1\n", "def check(c):\n    return None\n", Status.FAILED, "0 calls"),
        ("import os\ndef f():\n    os._exit(0)\n", "assert f() == 1\n", Status.ERROR, "ended before it answered"),
        (
            "import os\ndef f():\n    os.kill(os.getpid(), 11)\n    import ctypes\n    ctypes.string_at(0)\n",
            "assert f() == 1\n",
            Status.ERROR,
            "SIGSEGV",
        ),
        ("def f():\n    return [0] * (10 ** 10)\n", "assert f() == 1\n", Status.MEMORY, "MemoryError"),
        (
            "import os\ndef f():\n    os.write(4, b'\\x01\\x00\\x00\\x00{')\n",
            "assert f() == 1\n",
            Status.TAMPERED,
            "malformed",
        ),
    ],
)
def test_each_way_to_end_has_its_status(pool: Pool, candidate: str, tests: str, status: Status, word: str) -> None:
    verdict = judge(pool, candidate, tests)
    assert verdict.status is status, verdict
    assert word in verdict.error


@pytest.mark.parametrize("mode", [Mode.SPLIT])
@pytest.mark.parametrize("setup", ["import no_such_module\n", "raise SystemExit\n", "x = 1 / 0\n", "def (\n", "\x00"])
def test_a_setup_that_fails_by_itself_says_nothing_about_the_program(pool: Pool, setup: str, mode: Mode) -> None:
    verdict = judge(pool, "def f():\n    return 1\n", "assert f() == 1\n", setup=setup, mode=mode)
    assert verdict.status is Status.SANDBOX_ERROR
    assert verdict.error.startswith("the setup ")


@pytest.mark.parametrize("entry_point", ["", "f(", "f; g", "\x00"])
def test_an_entry_point_that_is_no_expression_says_nothing_about_the_program(pool: Pool, entry_point: str) -> None:
    verdict = judge(pool, "def f():\n    return 1\n", "assert f() == 1\n", entry_point)
    assert verdict.status is Status.SANDBOX_ERROR
    assert "entry point cannot be compiled" in verdict.error


def test_a_pass_needs_the_calls_that_the_reference_makes(pool: Pool) -> None:
    candidate, tests = "def f(x):\n    return x\n", "for x in range(5):\n    assert f(x) == x\n"
    assert judge(pool, candidate, tests, expected_calls=5).passed
    assert judge(pool, candidate, tests, expected_calls=6).status is Status.FAILED


def test_output_and_errors_of_the_candidate_are_kept(pool: Pool) -> None:
    candidate = (
        "import sys\ndef f():\n    print('a' * 10000 + 'end')\n    print('oops', file=sys.stderr)\n    return 1\n"
    )
    verdict = judge(pool, candidate, "assert f() == 1\n", limits=Limits(output_tail_bytes=100))
    assert verdict.stdout_tail.endswith("aend\n")
    assert len(verdict.stdout_tail) == 100
    assert verdict.stderr_tail == "oops\n"


def test_time_is_measured_for_every_verdict(pool: Pool) -> None:
    candidate = "import time\ndef f():\n    end = time.process_time() + 0.2\n    while time.process_time() < end:\n        pass\n    return 1\n"
    verdict = judge(pool, candidate, "assert f() == 1\n")
    assert 0.2 <= verdict.cpu_s < 2
    assert verdict.wall_s >= 0.2
    assert verdict.peak_memory_bytes > 1 << 20


def test_referees_that_stay_judge_as_fresh_ones_do(pool: Pool) -> None:
    dirty = Program(
        "dirty",
        "def f():\n    return 1\n",
        "import sys, math\nmath.pi = 3\nsys.setrecursionlimit(50)\nassert f() == 1\n",
        "f",
    )
    clean = Program(
        "clean",
        "import math\ndef f():\n    return math.pi\n",
        "import math, random\nassert f() == math.pi > 3.1 and random.random() == 0.8444218515250481\n",
        "f",
    )
    verdicts = [next(pool.run([program])) for program in (clean, dirty, clean, clean, dirty, clean)]
    assert [verdict.error for verdict in verdicts] == [""] * 6


def test_declared_packages_are_there_and_others_are_not(pool: Pool) -> None:
    candidate = "def f(x):\n    import numpy as np\n    return np.asarray(x) * 2\n"
    tests = "assert list(f([1, 2])) == [2, 4]\n"
    assert judge(pool, candidate, tests, packages=("numpy",)).passed
    missing = judge(pool, candidate, tests)
    assert (missing.status, "numpy" in missing.error) == (Status.ERROR, True)


GUARDED = {
    "patches": (
        "import os\ndef f(x):\n    return os.getcwd() + x\n",
        "import unittest\nfrom unittest.mock import patch\nclass T(unittest.TestCase):\n    @patch('solution.os.getcwd', return_value='a')\n"
        "    def test_a(self, _):\n        self.assertEqual(f('b'), 'ab')\n",
        Status.PASSED,
    ),
    "a failing assert": (
        "def f(x):\n    return 1\n",
        "def check(c):\n    assert c(1) == 1\n    assert c(2) == 2\n",
        Status.FAILED,
    ),
    "walking frames": (
        "import sys\ndef f(x):\n    sys._getframe(1)\n    return x\n",
        "def check(c):\n    assert c(1) == 1\n",
        Status.TAMPERED,
    ),
    "skipping": (
        "import unittest\ndef f():\n    raise unittest.SkipTest\n",
        "import unittest\nclass T(unittest.TestCase):\n    def test_a(self):\n        self.assertEqual(f(), 1)\n",
        Status.FAILED,
    ),
    "nothing asserted": ("def f():\n    return 1\n", "f()\n", Status.FAILED),
    "leaving": ("import os\ndef f():\n    os._exit(0)\n", "assert f() == 1\n", Status.ERROR),
}


@pytest.mark.parametrize("case", list(GUARDED))
def test_guarded_tests_share_the_process_and_say_so(pool: Pool, case: str) -> None:
    candidate, tests, status = GUARDED[case]
    verdict = judge(pool, candidate, tests, mode=Mode.GUARDED)
    assert (verdict.status, verdict.integrity) == (status, "guarded"), verdict
