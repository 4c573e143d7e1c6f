import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from crosstok import sandbox
from crosstok.sandbox import Limits, Pool, Program, ProgramQueue, Status
from crosstok.sandbox.attacks import EXHAUSTION, FORGERIES

RIGHT = Program("right", "def f():\n    return 1\n", "assert f() == 1\n", "f")
SLEEPER = replace(RIGHT, id="sleeper", candidate="import time\ndef f():\n    time.sleep(1000)\n")
LOOP = replace(
    RIGHT, id="loop", candidate="def f():\n    while True:\n        pass\n", limits=Limits(cpu_s=1.0, wall_s=60.0)
)


@contextmanager
def busy_cores(count: int) -> Iterator[None]:
    """Loops that want every core, beside whatever runs here."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def test_verdicts_are_handed_out_while_no_new_program_comes(pool: Pool) -> None:
    queue = ProgramQueue()
    queue.put(RIGHT)
    verdicts = pool.run(queue)
    assert next(verdicts).passed  # would wait for ever for a second program
    queue.put(replace(RIGHT, id="another"))
    assert next(verdicts).id == "another"
    queue.close()
    assert list(verdicts) == []


def test_time_limits_hold_while_no_new_program_comes(pool: Pool) -> None:
    queue = ProgramQueue()
    queue.put(LOOP)
    verdicts = pool.run(queue)
    assert next(verdicts).status is Status.TIMEOUT
    verdicts.close()


def test_a_queue_is_filled_from_another_thread(pool: Pool) -> None:
    queue = ProgramQueue()

    def fill() -> None:
        for number in range(20):
            queue.put(replace(RIGHT, id=str(number)))
        queue.close()

    thread = threading.Thread(target=fill)
    verdicts = pool.run(queue)
    thread.start()
    assert sorted(int(verdict.id) for verdict in verdicts) == list(range(20))
    thread.join()


def test_what_was_put_before_the_end_is_judged_and_nothing_after_it(pool: Pool) -> None:
    queue = ProgramQueue()
    queue.put(RIGHT)
    queue.close()
    with pytest.raises(RuntimeError, match="closed"):
        queue.put(RIGHT)
    assert [verdict.passed for verdict in pool.run(queue)] == [True]


def test_a_source_learns_that_the_pool_has_gone(pool: Pool) -> None:
    queue = ProgramQueue()
    queue.put(RIGHT)
    verdicts = pool.run(queue)
    next(verdicts)
    verdicts.close()
    with pytest.raises(RuntimeError, match="no longer consumes"):
        queue.put(RIGHT)
    with pytest.raises(RuntimeError, match="one pool"):
        next(pool.run(queue))
    assert next(pool.run([RIGHT])).passed


def test_programs_that_sleep_hold_up_nobody() -> None:
    sleepers = [replace(SLEEPER, limits=Limits(wall_s=500.0))] * 3
    with sandbox.open_pool(workers=1) as pool:
        verdicts = pool.run([*sleepers, RIGHT])
        assert next(verdicts).id == "right"
        verdicts.close()


def test_a_program_that_loops_keeps_its_place() -> None:
    with sandbox.open_pool(workers=1) as pool:
        assert [verdict.id for verdict in pool.run([LOOP, RIGHT])] == ["loop", "right"]


def test_a_program_whose_children_loop_keeps_its_place_and_pays_for_them() -> None:
    fork = "import os\ndef f():\n    for _ in range(3):\n        if not os.fork():\n            while True: pass\n    os.wait()\n"
    with sandbox.open_pool(workers=1) as pool:
        verdicts = list(pool.run([replace(LOOP, candidate=fork), RIGHT]))
    assert [verdict.id for verdict in verdicts] == ["loop", "right"]
    assert verdicts[0].status is Status.TIMEOUT
    assert verdicts[0].cpu_s >= 1.0
    assert verdicts[0].wall_s < 60.0


def test_where_memory_is_short_a_sleeping_program_keeps_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crosstok.sandbox.pool.available_memory", lambda: 1 << 30)
    with sandbox.open_pool(workers=1) as pool:
        programs = [replace(SLEEPER, limits=Limits(wall_s=2.0)), RIGHT]
        assert [(verdict.id, verdict.passed) for verdict in pool.run(programs)] == [("sleeper", False), ("right", True)]


def test_there_are_only_so_many_places_for_programs_that_sleep() -> None:
    programs = [replace(SLEEPER, id=str(number), limits=Limits(wall_s=1.5)) for number in range(12)]
    with sandbox.open_pool(workers=1) as pool:
        assert {verdict.status for verdict in pool.run(programs)} == {Status.TIMEOUT}
        assert 1 < len(pool._slots) <= 10


def test_verdicts_are_the_same_on_a_busy_machine(pool: Pool, references: list[Program]) -> None:
    attacks = {attack.name: attack for attack in (*FORGERIES, *EXHAUSTION)}
    names = ("equal-int", "printed-markers", "busy-loop", "one-print", "hundred-million", "exit-instead", "stdin")
    programs = [*references[:20], *(attacks[name].program() for name in names)]
    quiet = {verdict.id: (verdict.status, verdict.error) for verdict in pool.run(programs)}
    with busy_cores(2 * (os.cpu_count() or 1)):
        busy = {verdict.id: (verdict.status, verdict.error) for verdict in pool.run(programs)}
    assert busy == quiet
    assert len(quiet) == 27
