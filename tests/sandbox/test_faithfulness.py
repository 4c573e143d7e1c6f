"""The split referee gives the verdicts that the same tests give in one process, on benchmarks of the data folder."""

import ast
import gzip
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from crosstok import sandbox
from crosstok.sandbox import Mode, Program, Verdict

DATA = os.environ.get("CROSSTOK_DATA")
pytestmark = pytest.mark.skipif(
    not DATA, reason="CROSSTOK_DATA is unset: MBPP and HumanEvalPack lie in the data folder"
)

# Programs of MBPP whose verdict differs, each with its reason.
EXCEPTIONS: dict[str, str] = {}


def _rows(path: str) -> Iterator[dict[str, object]]:
    with gzip.open(Path(str(DATA)) / "hub" / path, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def _mbpp() -> list[Program]:
    programs = []
    for split in ("train", "validation", "test", "prompt"):
        for row in _rows(f"google-research-datasets/mbpp/full/{split}.jsonl.gz"):
            code, asserts = str(row["code"]), row["test_list"]
            assert isinstance(asserts, list)
            tests = "\n".join([str(row["test_setup_code"]), *asserts])
            defined = {node.name for node in ast.parse(code).body if isinstance(node, ast.FunctionDef)}
            called = [node.id for node in ast.walk(ast.parse(asserts[0])) if isinstance(node, ast.Name)]
            entry_point = next(name for name in called if name in defined)
            programs.append(Program(f"mbpp/{row['task_id']}", code, tests, entry_point))
    return programs


def _humanevalpack() -> list[Program]:
    programs = []
    for row in _rows("bigcode/humanevalpack/python/test.jsonl.gz"):
        declaration, entry_point = str(row["declaration"]), str(row["entry_point"])
        setup = [
            node
            for node in ast.parse(declaration + "    pass\n").body
            if not (isinstance(node, ast.FunctionDef) and node.name == entry_point)
        ]
        programs += [
            Program(
                f"{row['task_id']}/{kind}",
                declaration + str(row[kind]),
                str(row["test"]),
                entry_point,
                setup=ast.unparse(ast.Module(setup, [])),
            )
            for kind in ("canonical_solution", "buggy_solution")
        ]
    return programs


def _verdicts(programs: list[Program]) -> dict[str, Verdict]:
    with sandbox.open_pool() as pool:
        return {verdict.id: verdict for verdict in pool.run(programs)}


@pytest.mark.parametrize("benchmark", [_mbpp, _humanevalpack])
def test_split_and_one_process_agree(benchmark: object) -> None:
    assert callable(benchmark)
    programs = [replace(program, limits=sandbox.Limits(cpu_s=4.0, wall_s=20.0)) for program in benchmark()]
    split = _verdicts(programs)
    together = _verdicts([replace(program, mode=Mode.GUARDED) for program in programs])
    differ = {
        name: (split[name].status.value, split[name].error, together[name].status.value, together[name].error)
        for name in split
        if split[name].passed != together[name].passed
    }
    assert set(differ) == {name for name in EXCEPTIONS if name in split}, differ


def test_every_solution_of_humanevalpack_is_told_from_its_buggy_twin() -> None:
    verdicts = _verdicts(
        [replace(program, limits=sandbox.Limits(cpu_s=4.0, wall_s=20.0)) for program in _humanevalpack()]
    )
    wrong = [verdict for verdict in verdicts.values() if verdict.passed != verdict.id.endswith("canonical_solution")]
    assert wrong == []
