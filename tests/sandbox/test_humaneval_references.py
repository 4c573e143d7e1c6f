from dataclasses import replace

from crosstok.sandbox import Pool, Program, Status


def test_every_reference_solution_of_humaneval_passes(pool: Pool, references: list[Program]) -> None:
    verdicts = {verdict.id: verdict for verdict in pool.run(references)}
    assert len(verdicts) == 164
    assert [verdict for verdict in verdicts.values() if not verdict.passed] == []
    assert all(verdict.integrity == "split" and verdict.calls for verdict in verdicts.values())


def test_a_solution_that_returns_nothing_fails_every_problem(pool: Pool, references: list[Program]) -> None:
    empty = [
        replace(program, candidate=f"def {program.entry_point}(*args, **kwargs):\n    return None\n")
        for program in references
    ]
    assert [verdict.id for verdict in pool.run(empty) if verdict.status not in (Status.FAILED, Status.ERROR)] == []
