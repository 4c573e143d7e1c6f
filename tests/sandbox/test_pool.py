import logging
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
import venv
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from crosstok import sandbox
from crosstok.errors import UserError
from crosstok.sandbox import Limits, Pool, Program, ProgramQueue, Status, selection
from crosstok.sandbox.attacks import descendants, traces
from crosstok.sandbox.backends.bubblewrap import Bubblewrap
from crosstok.sandbox.cgroups import MOUNTS
from crosstok.sandbox.frames import frame
from crosstok.sandbox.slot import Slot


def right(name: str) -> Program:
    return Program(name, "def f():\n    return 1\n", "assert f() == 1\n", "f")


def wrong(name: str) -> Program:
    return Program(name, "def f():\n    return 2\n", "assert f() == 1\n", "f")


def queue_of(programs: list[Program]) -> ProgramQueue:
    """A queue that stays open: whoever waits for more programs waits for ever."""
    queue = ProgramQueue()
    for program in programs:
        queue.put(program)
    return queue


def test_a_backend_that_isolates_programs_works_here() -> None:
    assert [report.name for report in sandbox.probe() if report.available and report.name != "process"]


@pytest.mark.parametrize("name", ["bubblewrap", "namespaces", "docker"])
def test_a_backend_that_is_not_here_is_told_in_the_summary(name: str) -> None:
    report = next(report for report in sandbox.probe() if report.name == name)
    if not report.available:
        assert report.missing
        assert report.hint
        pytest.skip(f"the sandbox tests did not run on {name}: {', '.join(report.missing)}")
    assert {"files", "net", "pid", "ipc", "seccomp", "processes", "memory"} <= report.guarantees


def test_workers_start_from_an_environment_that_holds_a_copy_of_its_interpreter(tmp_path: Path) -> None:
    venv.create(tmp_path / "env", symlinks=False)
    code = "from crosstok import sandbox; print(*(report.name for report in sandbox.probe() if report.available))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [tmp_path / "env/bin/python", "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    here = [report.name for report in sandbox.probe() if report.available]
    assert done.stdout.split() == here


def test_verdicts_do_not_depend_on_order_or_company(pool: Pool) -> None:
    slow = Program("slow", "import time\ndef f():\n    time.sleep(0.3)\n    return 1\n", "assert f() == 1\n", "f")
    programs = [slow, *[right(f"r{n}") for n in range(8)], *[wrong(f"w{n}") for n in range(8)]]
    forward = {verdict.id: verdict.status for verdict in pool.run(programs)}
    backward = {verdict.id: verdict.status for verdict in pool.run(programs[::-1])}
    assert forward == backward
    assert {name for name, status in forward.items() if status is not Status.PASSED} == {f"w{n}" for n in range(8)}


def test_verdicts_stream_and_programs_are_taken_only_when_a_worker_is_free(pool: Pool) -> None:
    taken = 0

    def endless() -> Iterator[Program]:
        nonlocal taken
        while True:
            taken += 1
            yield right(str(taken))

    verdicts = pool.run(endless())
    for seen in range(1, 20):
        assert next(verdicts).passed
        assert taken <= seen + 2
    verdicts.close()
    assert next(pool.run([right("after")])).passed


def test_a_worker_that_dies_is_replaced_and_its_program_judged_again(
    pool: Pool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    if pool.backend == "docker":
        pytest.skip("a container's worker is not a process of ours to kill")
    killed: list[str] = []
    assign = Slot.assign

    def assign_and_kill(slot: Slot, program: Program, tries: int) -> None:
        assign(slot, program, tries)
        if program.id == "slow" and tries == 1:
            assert slot.worker is not None
            slot.worker._process.kill()  # type: ignore[attr-defined]  # a WorkerProcess
            killed.append(program.id)

    monkeypatch.setattr(Slot, "assign", assign_and_kill)
    slow = Program("slow", "import time\ndef f():\n    time.sleep(1)\n    return 1\n", "assert f() == 1\n", "f")
    with caplog.at_level(logging.WARNING):
        verdicts = {verdict.id: verdict.status for verdict in pool.run([slow, right("other")])}
    assert killed == ["slow"]
    assert verdicts == {"slow": Status.PASSED, "other": Status.PASSED}
    assert "worker died" in caplog.text


@pytest.mark.parametrize(
    "nonsense",
    [
        b"\x02\0\0\0[}",
        b"\x02\0\0\0[]",
        b"\xff\xff\xff\xff",
        frame({"status": "superb", "error": "", "judged": True}),
        frame({"status": 1}),
    ],
)
def test_a_worker_that_writes_nonsense_is_replaced_and_its_program_judged_again(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, nonsense: bytes
) -> None:
    with sandbox.open_pool("process", workers=1, unsafe=True) as pool:
        assert next(pool.run([right("warm")])).passed
        poisoned = pool._slots[0].worker
        monkeypatch.setattr(poisoned, "read", lambda: nonsense)
        with caplog.at_level(logging.WARNING):
            assert next(pool.run([right("x")])).passed
        assert "wrote an invalid" in caplog.text
        assert pool._slots[0].worker is not poisoned


def test_a_program_whose_worker_dies_twice_is_a_sandbox_error_and_not_a_fail(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = pool._backend.start

    def start_dead(slot: int, packages: tuple[str, ...]) -> object:
        worker = start(slot, packages)
        worker.config = {"backend": "no such backend"}
        return worker

    for slot in pool._slots:
        slot.stop()
    monkeypatch.setattr(pool._backend, "start", start_dead)
    verdict = next(pool.run([right("x")]))
    assert (verdict.status, verdict.integrity) == (Status.SANDBOX_ERROR, "none")
    monkeypatch.undo()
    assert next(pool.run([right("x")])).passed


@pytest.mark.parametrize("by", [list, queue_of])
def test_a_hung_worker_is_replaced(
    by: Callable[[list[Program]], list[Program] | ProgramQueue], monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = Limits(wall_s=60.0)
    with sandbox.open_pool("process", workers=1, unsafe=True) as pool:
        assert next(pool.run([right("warm")])).passed
        hung = pool._slots[0].worker
        os.kill(hung._process.pid, signal.SIGSTOP)  # type: ignore[union-attr]  # it has just judged
        # A second for the worker that is there already, and ample time for the one that must be started.
        monkeypatch.setattr("crosstok.sandbox.slot.GRACE_S", 1.0 - limits.wall_s)
        monkeypatch.setattr("crosstok.sandbox.slot.STARTUP_S", limits.wall_s)
        assert next(pool.run(by([replace(right("x"), limits=limits)]))).passed
        assert pool._slots[0].worker is not hung


BAD = {
    "NUL": "def f():\n    return 1\x00\n",
    "surrogates": "def f():\n    return '\ud800'\n",
    "empty": "",
    "ten megabytes": "x = '" + "a" * (10 << 20) + "'\ndef f():\n    return 2\n",
    "a null byte in a string": "def f():\n    return '\x00'\n",
    "tabs and spaces": "def f():\n\treturn 1\n        return 2\n",
    "deep brackets": "x = " + "[" * 5000 + "]" * 5000 + "\n",
    "a huge number": "x = " + "9" * 100000 + "\n",
}


@pytest.mark.parametrize("case", list(BAD))
def test_a_bad_program_gets_a_verdict_and_the_pool_goes_on(pool: Pool, case: str) -> None:
    verdicts = {
        verdict.id: verdict
        for verdict in pool.run([Program("bad", BAD[case], "assert f() == 1\n", "f"), right("good")])
    }
    assert verdicts["bad"].status in (Status.ERROR, Status.FAILED, Status.MEMORY), verdicts["bad"]
    assert verdicts["good"].passed


@pytest.mark.parametrize("tests", ["assert (", "\x00", "assert f() ==\n", "(" * 5000])
def test_tests_that_do_not_parse_say_nothing_about_the_program(pool: Pool, tests: str) -> None:
    verdict = next(pool.run([Program("x", "def f():\n    return 1\n", tests, "f")]))
    assert verdict.status is Status.SANDBOX_ERROR
    assert "tests cannot be compiled" in verdict.error


@pytest.mark.parametrize(
    ("part", "status"),
    [("candidate", Status.ERROR), ("tests", Status.SANDBOX_ERROR), ("setup", Status.SANDBOX_ERROR)],
)
def test_a_program_too_long_to_be_sent_gets_a_verdict_and_costs_no_worker(
    monkeypatch: pytest.MonkeyPatch, part: str, status: Status
) -> None:
    monkeypatch.setattr("crosstok.sandbox.frames.FRAME_LIMIT", 10_000)
    with sandbox.open_pool("process", workers=1, unsafe=True) as pool:
        long = replace(right("long"), **{part: "x = 1\n" * 2000})  # type: ignore[arg-type]  # fields by name
        first, warm, last = (next(pool.run([program])) for program in (long, right("a"), long))
        worker = pool._slots[0].worker
        assert (first.status, last.status, first.calls) == (status, status, None)
        assert "the limit of 10000" in first.error
        assert warm.passed
        assert next(pool.run([right("b")])).passed
        assert pool._slots[0].worker is worker


def _groups() -> list[Path]:
    return sorted(MOUNTS.glob(f"**/crosstok-{os.getpid()}-*"))


def _open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_closing_leaves_nothing_behind(pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = traces(), set(descendants(os.getpid())), _groups(), [], _open_descriptors()
    hang = Program("hang", "import os\nos.fork()\nwhile True:\n    pass\n", "assert f() == 1\n", "f")
    with sandbox.open_pool(pool.backend, workers=2) as other:
        verdicts = other.run([right("a"), hang, hang])
        assert next(verdicts).passed
        assert len(descendants(os.getpid())) > len(before[1]) or pool.backend == "docker"
    files = sorted(tmp_path.iterdir())
    assert (traces(), set(descendants(os.getpid())), _groups(), files, _open_descriptors()) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL, signal.SIGTERM])
def test_a_harness_that_is_killed_leaves_no_process(number: signal.Signals) -> None:
    script = textwrap.dedent("""
        import signal
        # A test run that was started in the background ignores SIGINT, and so would everything it starts.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        import crosstok.sandbox as sandbox
        from crosstok.sandbox import Program
        hang = Program("hang", "import os\\nos.fork()\\nwhile True:\\n    pass\\n", "f()", "f")
        ready = Program("ready", "def f():\\n    return 1\\n", "assert f() == 1\\n", "f")
        with sandbox.open_pool(workers=2) as pool:
            for verdict in pool.run([ready, hang, hang]):
                print(verdict.id, flush=True)
    """)
    harness = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert harness.stdout is not None
    assert harness.stdout.readline() == "ready\n"
    while len(children := descendants(harness.pid)) < 4:  # two workers and what they have begun
        time.sleep(0.05)
    harness.send_signal(number)
    harness.wait(timeout=120)
    harness.stdout.close()
    deadline = time.monotonic() + 60
    while (alive := [pid for pid in children if Path(f"/proc/{pid}").exists()]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert alive == []


def test_names_and_refusals_are_one_clear_line() -> None:
    with pytest.raises(UserError, match="Did you mean 'bubblewrap'"):
        sandbox.open_pool("bublewrap")
    with pytest.raises(UserError, match="does not isolate programs"):
        sandbox.open_pool("process")
    with pytest.raises(UserError, match="at least one worker"):
        sandbox.open_pool(workers=0)


def test_without_a_working_backend_nothing_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crosstok.sandbox.selection.trial", lambda _: "user namespaces are forbidden here")
    with pytest.raises(UserError, match=r"No sandbox works on this machine .*user namespaces are forbidden here"):
        sandbox.open_pool()
    for name in ("namespaces", "bubblewrap"):
        with pytest.raises(UserError, match="does not work here"):
            sandbox.open_pool(name)


def test_bwrap_is_started_from_where_it_was_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "bwrap"
    program.write_text(f"#!/bin/sh\necho started > {tmp_path}/marker\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not selection.report(Bubblewrap()).available
    assert (tmp_path / "marker").read_text() == "started\n"


def test_importing_the_sandbox_is_light() -> None:
    code = "import sys, crosstok.sandbox; print([m for m in ('docker', 'torch', 'numpy', 'evaluate', 'multiprocessing') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_two_runs_give_the_same_values(pool: Pool) -> None:
    from crosstok.sandbox.attacks import DETERMINISM  # one program of the suite

    first, second = (next(pool.run([DETERMINISM.program()])).stdout_tail for _ in range(2))
    with sandbox.open_pool(pool.backend, workers=1) as other:
        assert first == second == next(other.run([DETERMINISM.program()])).stdout_tail != ""
