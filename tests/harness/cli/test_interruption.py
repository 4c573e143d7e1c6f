"""A run that is interrupted says so, keeps what it has, and can be stopped even where SIGINT is ignored."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from crosstok.errors import UserError
from crosstok.results.store.records import Progress
from crosstok.results.store.store import Store


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_is_partial_and_its_exit_code_tells_the_signal(
    number: signal.Signals, code: int, suite_content: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    content = suite_content(tasks=[{"name": "humaneval", "max_bytes": 1500}])
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump(content))
    store = tmp_path / "s.db"
    command = [
        sys.executable,
        "-m",
        "crosstok.harness.cli.app",
        "run",
        "suite.yaml",
        "--store",
        str(store),
        "--no-page",
    ]
    # As a script starts a job in the background: with SIGINT ignored.
    ignoring = ["sh", "-c", 'trap "" INT; exec "$@"', "sh"] if number == signal.SIGTERM else []
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [*ignoring, *command], cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    ) as run:  # fmt: skip
        while not (store.exists() and runs(store)):
            assert run.poll() is None, run.communicate()[1]
            time.sleep(0.1)
        run.send_signal(number)
        _, errors = run.communicate(timeout=300)
    assert run.returncode == code, errors
    assert errors.strip().splitlines()[-1] == "interrupted; the same command continues"
    assert runs(store) == [Progress.PARTIAL]


def runs(store: Path) -> list[Progress]:
    try:
        with Store(store, read_only=True) as opened:
            return [run.status for run in opened.runs()]
    except UserError:  # the file is there and its tables are not yet
        return []
