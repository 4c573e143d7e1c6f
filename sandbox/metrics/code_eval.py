"""``code_eval`` metric (functional correctness of generated code, pass@k) that runs every program in the sandbox.

Inputs and outputs are those of the Hub's metric of the same name: ``references`` are tests, ``predictions`` are lists
of candidates per test, and the result is ``(pass_at_k, results)``. pass@k is the unbiased estimator of Chen et al. 2021
(arXiv 2107.03374, section 2.1). Unlike the original, a candidate cannot forge its verdict and nothing runs in the
calling process, so the environment variable that unlocks the original is not needed.
"""

import ast
import builtins
import math
from collections import defaultdict
from typing import Any

import datasets
import evaluate

from crosstok.sandbox import Limits, Mode, Program, Status, open_pool

_RESULTS = {Status.PASSED: "passed", Status.TIMEOUT: "timed out"}


class CodeEval(evaluate.Metric):  # type: ignore[misc]  # evaluate ships no types
    """pass@k of candidates, judged by tests."""

    def _info(self) -> Any:
        features = {
            "predictions": datasets.Sequence(datasets.Value("string")),
            "references": datasets.Value("string"),
        }
        return evaluate.MetricInfo(
            description="pass@k of generated code, judged in a sandbox",
            citation="",
            inputs_description="references: tests; predictions: a list of candidates for each",
            features=datasets.Features(features),
        )

    def _compute(
        self,
        predictions: list[list[str]],
        references: list[str],
        k: tuple[int, ...] = (1, 10, 100),
        num_workers: int = 4,
        timeout: float = 3.0,
    ) -> tuple[dict[str, float], dict[int, list[tuple[int, dict[str, Any]]]]]:
        limits = Limits(cpu_s=timeout, wall_s=4 * timeout)
        programs = (
            program(f"{task} {completion}", candidate, tests, limits)
            for task, (candidates, tests) in enumerate(zip(predictions, references, strict=True))
            for completion, candidate in enumerate(candidates)
        )
        results: dict[int, list[tuple[int, dict[str, Any]]]] = defaultdict(list)
        with open_pool(workers=num_workers) as pool:
            for verdict in pool.run(programs):
                if verdict.status is Status.SANDBOX_ERROR:
                    raise RuntimeError(f"the sandbox could not judge candidate {verdict.id}: {verdict.error}")
                task, completion = map(int, verdict.id.split())
                row = {
                    "task_id": task,
                    "passed": verdict.passed,
                    "result": _RESULTS.get(verdict.status, f"failed: {verdict.error}"),
                    "completion_id": completion,
                }
                results[task].append((completion, row))
        counts = [(len(rows), sum(row["passed"] for _, row in rows)) for rows in results.values()]
        scores = {
            f"pass@{size}": sum(pass_at_k(n, c, size) for n, c in counts) / len(counts)
            for size in k
            if counts and all(n >= size for n, _ in counts)
        }
        return scores, {task: sorted(rows, key=lambda row: row[0]) for task, rows in sorted(results.items())}


def pass_at_k(n: int, c: int, k: int) -> float:
    """Return the probability that at least one of ``k`` candidates drawn from ``n``, of which ``c`` pass, passes."""
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


def program(name: str, candidate: str, tests: str, limits: Limits) -> Program:
    """Return the program of a candidate, with the entry point inferred from the tests.

    The entry point is the argument of ``check``, or the first name that the tests call and do not define. Tests without
    either run in guarded mode.
    """
    entry_point = _entry_point(tests)
    mode = Mode.SPLIT if entry_point else Mode.GUARDED
    return Program(name, candidate, tests, entry_point or "None", mode=mode, limits=limits)


def _entry_point(tests: str) -> str | None:
    try:
        tree = ast.parse(tests)
    except (SyntaxError, ValueError):
        return None
    defined = {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    defined |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    defined |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            defined |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    checked = [call.args[0] for call in calls if _name(call.func) == "check" and call.args]
    for node in [*checked, *[call.func for call in calls]]:
        name = _name(node)
        if name and name not in defined and not hasattr(builtins, name):
            return name
    return None


def _name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else ""
