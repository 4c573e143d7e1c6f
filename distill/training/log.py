"""Training logs: JSON Lines with one line per optimizer step, and their plot.

Each line is flushed as soon as it is written, so the log of a killed run is complete up to its last step. A resumed run
first removes the lines after its checkpoint, so no step is logged twice.
"""

import json
from pathlib import Path
from typing import Any

Line = dict[str, Any]
"""``step`` (from 1), ``loss`` {name: value}, ``metrics`` {name: {…}}, ``lr``, ``grad_norm``, ``bytes``,
``refused_windows`` (not encoded losslessly), ``cached_windows`` (read from the teacher cache), ``seconds``.
"""


def read_log(path: Path) -> list[Line]:
    """Return the complete lines of a log; a truncated last line is dropped, and a missing file has none."""
    if not path.exists():
        return []
    whole = path.read_text(encoding="utf-8").rpartition("\n")[0]
    return [json.loads(line) for line in whole.splitlines()]


def cut_log(path: Path, steps: int) -> list[Line]:
    """Truncate the log to its first ``steps`` lines and return them."""
    kept = read_log(path)[:steps]
    path.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
    return kept


def append_log(path: Path, line: Line) -> None:
    """Append one line to the log."""
    with path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(line) + "\n")


def plot_log(log: Path, picture: Path, title: str) -> None:
    """Plot every loss, one panel each, and the learning rate against the bytes read; save the figure to ``picture``."""
    lines = read_log(log)
    names = list(lines[0]["loss"]) if lines else []
    from matplotlib.figure import Figure  # slow to load, and most commands never draw

    figure = Figure(figsize=(7.2, 1.2 + 2.2 * (len(names) + 1)), layout="constrained")
    panels = figure.subplots(len(names) + 1, 1, sharex=True, squeeze=False)[:, 0]
    read = []
    total = 0
    for line in lines:
        total += line["bytes"]
        read.append(total / 1e6)
    for panel, name in zip(panels, names, strict=False):
        panel.plot(read, [line["loss"][name] for line in lines], linewidth=1, color="C0")
        panel.set_ylabel(name)
        panel.grid(alpha=0.3)
    panels[-1].plot(read, [line["lr"] for line in lines], linewidth=1, color="C1")
    panels[-1].set_ylabel("learning rate")
    panels[-1].set_xlabel("MB of text read")
    figure.suptitle(title, fontsize="medium")
    figure.savefig(picture, metadata={"Date": None})
