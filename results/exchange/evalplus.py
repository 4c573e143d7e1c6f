"""Reader of result files of EvalPlus (``eval_results.json``)."""

from pathlib import Path
from typing import Any

from crosstok.errors import UserError
from crosstok.results.exchange.json_files import read_json


def evalplus_rows(path: Path) -> list[dict[str, Any]]:
    """Return a row per answer: task_id, solution, passed, result and plus (whether the extra tests were run).

    Raises:
        UserError: the file cannot be read or is not of EvalPlus.

    """
    content = read_json(path)
    if not isinstance(content.get("eval"), dict):
        raise UserError(
            f"{path} is not a result file of EvalPlus.", hint="Samples files are JSON lines and end in .jsonl."
        )
    rows = []
    for task_id, answers in content["eval"].items():
        for answer in answers:
            found = [answer.get(name) for name in ("base_status", "plus_status") if answer.get(name)]
            failed = next((status for status in found if status != "pass"), None)
            passed = bool(found) and failed is None
            rows.append(
                {
                    "task_id": task_id, "solution": answer["solution"], "passed": passed, "result": str(failed),
                    "plus": bool(answer.get("plus_status")),
                }
            )  # fmt: skip
    return rows
