import io
import json
from pathlib import Path
from typing import Any

import pytest

from crosstok.errors import UserError
from sandbox import Pool
from sandbox.check import check
from sandbox.demo import Held, table

LINE: dict[str, Any] = {
    "id": "a",
    "candidate": "def f():\n    return 1\n",
    "tests": "assert f() == 1\n",
    "entry_point": "f",
}


def write(path: Path, *rows: object) -> Path:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return path


def test_one_line_out_for_each_line_in_and_in_its_order(pool: Pool, tmp_path: Path) -> None:
    slow = "import time\ntime.sleep(0.5)\n" + LINE["candidate"]
    rows = [{**LINE, "id": 7, "candidate": slow}, {**LINE, "candidate": "def f():\n    return 2\n"}, "", LINE]
    out = io.StringIO()
    counts = check(write(tmp_path / "in.jsonl", *rows), out, pool)
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [(line["id"], line["verdict"]) for line in lines] == [(7, "passed"), ("a", "failed"), ("a", "passed")]
    assert all(line["tier"] == pool.tier and line["wall_s"] > 0 and line["peak_memory_bytes"] > 0 for line in lines)
    assert {status.value: count for status, count in counts.items()} == {"passed": 2, "failed": 1}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", "line 2 is not JSON"),
        ("[]", "line 2 is not a JSON object"),
        ({**LINE, "candidat": ""}, "Did you mean 'candidate'"),
        ({key: value for key, value in LINE.items() if key != "tests"}, "line 2 has no 'tests'"),
        ({**LINE, "candidate": 3}, "'candidate' is not text"),
        ({**LINE, "limits": {"cpu": 3}}, "Did you mean 'cpu_s'"),
        ({**LINE, "limits": {"cpu_s": -1}}, "not a positive number"),
        ({**LINE, "limits": {"files": 1.5}}, "not a whole number"),
        ({**LINE, "mode": "spilt"}, "Did you mean 'split'"),
        ({**LINE, "packages": "numpy"}, "not a list of names"),
    ],
)
def test_a_mistake_is_told_with_its_line_before_anything_runs(
    pool: Pool, tmp_path: Path, row: object, message: str
) -> None:
    out = io.StringIO()
    with pytest.raises(UserError, match=message):
        check(write(tmp_path / "in.jsonl", LINE, row), out, pool)
    assert out.getvalue() == ""


def test_a_file_that_is_not_text_or_not_there_is_one_line(pool: Pool, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_bytes(b'{"id": "\xff"}\n')
    with pytest.raises(UserError, match="line 1 is not JSON"):
        check(bad, io.StringIO(), pool)
    with pytest.raises(UserError, match="Cannot read"):
        check(tmp_path / "missing.jsonl", io.StringIO(), pool)


def test_the_table_of_the_demo_counts_what_held() -> None:
    from sandbox.attacks import FORGERIES  # noqa: PLC0415  (any attack will do)

    text = table([Held("forgery", FORGERIES[0], None)])
    assert text.endswith("0 held, 0 BROKEN, 1 not promised")
