"""Attack: a hostile program, a description, and the verdicts it may get.

Attacks ship with the package. The tests run all of them on every backend, and ``crosstok sandbox demo`` runs them on
the machine on which the sandbox will be used.
"""

import textwrap
from dataclasses import dataclass, field, replace

from crosstok.sandbox.program import Limits, Program
from crosstok.sandbox.verdict import Status

ROOMY = Limits(cpu_s=30.0, wall_s=120.0, memory_bytes=512 << 20, tmp_bytes=32 << 20, output_bytes=4 << 20)
"""For attacks that end by themselves or at another limit: enough time that a machine ten times slower, or busy, reaches
the expected verdict instead of a timeout."""
OUT_OF_TIME = replace(ROOMY, cpu_s=0.5, wall_s=4.0)
"""For attacks that only a timeout ends: little time, to keep the suite short."""

NOT_PASSED = frozenset(Status) - {Status.PASSED, Status.SANDBOX_ERROR}
ANY = frozenset(Status) - {Status.SANDBOX_ERROR}
PASSED = frozenset({Status.PASSED})

_ADDITION = """
def check(candidate):
    assert candidate(1, 2) == 3
    assert candidate(-5, 12) == 7
    assert candidate(10**20, 1) == 100000000000000000001
"""
_PROBE = "found = probe()\nassert found == [], found\n"

# The pattern is assembled from parts, so that the search does not find its own source.
MEMORY_SEARCH = """
import gc, re
pattern = re.compile(b"expected-" + b"value-[0-9a-f]{16}")
def probe():
    found = []
    with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", buffering=0) as memory:
        for line in maps:
            fields = line.split()
            if "r" in fields[1] and (len(fields) < 6 or fields[5] in ("[heap]", "[stack]")):
                start, end = (int(part, 16) for part in fields[0].split("-"))
                memory.seek(start)
                found += pattern.findall(memory.read(end - start))
    for thing in gc.get_objects():
        if type(thing) is dict:
            found += [value for value in thing.values() if type(value) is str and pattern.search(value.encode(errors="replace"))]
    return found
"""


@dataclass(frozen=True, slots=True)
class Attack:
    """A hostile program. ``needs`` names the guarantees without which its outcome is meaningless."""

    name: str
    what: str
    candidate: str
    expected: frozenset[Status]
    tests: str
    entry_point: str
    needs: frozenset[str] = frozenset({"files", "net", "pid"})
    limits: Limits = field(default=ROOMY)

    def program(self) -> Program:
        """Return the program to run."""
        return Program(self.name, self.candidate, self.tests, self.entry_point, limits=self.limits)


def forgery(name: str, what: str, candidate: str, *needs: str, limits: Limits = ROOMY) -> Attack:
    """Return a wrong solution of the addition task that tries to pass."""
    return Attack(name, what, textwrap.dedent(candidate), NOT_PASSED, _ADDITION, "add", frozenset(needs), limits)


def exhaustion(
    name: str, what: str, candidate: str, expected: frozenset[Status], *needs: str, limits: Limits = ROOMY
) -> Attack:
    """Return a program that answers ``f() == 1`` while it exhausts a resource."""
    required = frozenset(needs or {"pid", "files"})
    return Attack(name, what, textwrap.dedent(candidate), expected, "assert f() == 1\n", "f", required, limits)


def probe(name: str, what: str, candidate: str, *needs: str, expected: frozenset[Status] = PASSED) -> Attack:
    """Return a program that lists what it achieved; an empty list passes."""
    required = frozenset(needs) if needs else frozenset({"files", "net", "pid", "ipc", "seccomp"})
    return Attack(name, what, textwrap.dedent(candidate), expected, _PROBE, "probe", required)
