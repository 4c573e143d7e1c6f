import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from crosstok.errors import UserError
from crosstok.sandbox import Pool, Status, Verdict
from crosstok.sandbox.attacks import FORGERIES
from crosstok.sandbox.attacks.attack import PASSED
from crosstok.sandbox.attacks.campaign import CONTROL, AttackResult, Campaign
from crosstok.sandbox.check import check
from crosstok.sandbox.demo import demo, table

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
        ({**LINE, "candidate": 3}, "'candidate' must be a string"),
        ({**LINE, "limits": {"cpu": 3}}, "Did you mean 'cpu_s'"),
        ({**LINE, "limits": {"cpu_s": -1}}, "must be a positive number"),
        ({**LINE, "limits": {"files": 1.5}}, "must be an integer"),
        ({**LINE, "mode": "spilt"}, "Did you mean 'split'"),
        ({**LINE, "packages": "numpy"}, "must be a list of names"),
        ({**LINE, "packages": ["no_such_package"]}, "'no_such_package' is not installed"),
        ({**LINE, "packages": ["../x"]}, "is not installed"),
        (json.dumps({**LINE, "limits": {"wall_s": 1}}).replace("1}", "NaN}"), "must be a positive number"),
        (json.dumps({**LINE, "limits": {"wall_s": 1}}).replace("1}", "Infinity}"), "must be at most 1000000"),
        ({**LINE, "limits": {"memory_bytes": 1 << 60}}, "must be at most"),
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


def test_progress_is_told_with_each_verdict(pool: Pool, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    check(write(tmp_path / "in.jsonl", LINE, LINE, LINE), io.StringIO(), pool, lambda done, of: told.append((done, of)))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_the_table_of_the_demo_sums_up_attacks_controls_and_host() -> None:
    attack, passed = FORGERIES[0], Verdict("x", Status.PASSED, "split", "tier")
    rows = [
        AttackResult("forgery", attack, None),
        AttackResult("forgery", attack, passed, ("mounts changed",)),
        AttackResult(CONTROL, attack, replace(passed, status=Status.SANDBOX_ERROR)),
        AttackResult(CONTROL, replace(attack, expected=PASSED), passed),
    ]
    lines = table(Campaign("namespaces", rows=rows, left=("process 7 (python)",))).splitlines()
    assert "mounts changed" in next(line for line in lines if "BROKEN" in line and line.startswith("forgery"))
    assert lines[-3:] == [
        "namespaces: 0 held, 1 BROKEN, 1 not guaranteed",
        "controls after each attack: 1 of 2 received the right verdict",
        "host afterwards: process 7 (python)",
    ]


def test_the_demo_refuses_a_backend_that_does_not_isolate_programs() -> None:
    with pytest.raises(UserError, match="does not isolate programs"):
        demo("process")
