"""Two runs in pandas: the table of each, and their difference with intervals and p values.

python examples/compare_runs.py [MODEL]
"""

import sys

import pandas as pd

import crosstok


def main(model: str) -> None:
    """Measure a model and its student of byte tokens in two runs and compare them."""
    tasks = ["text_bpb:source=stdlib,limit=4,passage_bytes=256"]
    student = crosstok.transfer(model, "students/bytes", tokenizer="bytes")
    before = crosstok.evaluate(model, tasks=tasks, name="base")
    after = crosstok.evaluate(student, tasks=tasks, name="bytes")
    frame = pd.concat([crosstok.table(before.run), crosstok.table(after.run)], ignore_index=True)
    print(frame[["model", "task", "value", "low", "high", "n"]])
    records = crosstok.compare(f"{before.run}/base", f"{after.run}/bytes")
    print(pd.DataFrame(records)[["task", "difference", "low", "high", "p", "outcome"]])


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "wheel:smollm2-135m-instruct")
