"""Oracle-any of an ensemble's members: by hand, and in the sentences under a run's table."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crosstok.results.compare.answers import Answers, Headline
from crosstok.results.compare.comparison import compare
from crosstok.results.compare.oracles import oracles
from crosstok.results.store.model_names import ModelName
from crosstok.results.store.records import Progress, Run
from crosstok.results.store.store import Store
from crosstok.results.tables.findings import findings

PASS = Headline("pass@1", "fraction", higher_is_better=True)
BITS = Headline("bits_per_byte", "bits/byte", higher_is_better=False)


def run(**ensembles: list[str]) -> Run:
    models: dict[str, Any] = {"a": {"source": "x"}, "b": {"transfer": {"from": "a"}}}
    models |= {name: {"ensemble": {"members": members}} for name, members in ensembles.items()}
    return Run(id="r-1", suite="r", config={"models": models}, environment={}, status=Progress.COMPLETE)


def found_in(run: Run, headline: Headline, known: dict[str, Answers], unlike: dict[str, str] | None = None) -> Any:
    """Return the oracles of models that are named as a suite with the seeds 0 and 1 names them."""
    seeded = {str(name): name for model in ("b", "pair") for seed in (0, 1) for name in [ModelName(model, seed)]}
    names = {name: seeded.get(name, ModelName(name)) for name in known}
    return oracles(run, headline, known, unlike or {}, names)


def answers(*values: float, weight: list[float] | None = None, first: int = 0) -> Answers:
    names = np.array([f"d{first + place}" for place in range(len(values))], dtype=object)
    weights = np.array(weight or [1.0] * len(values))
    return Answers(names, np.array(values), weights, single=weight is None)


def test_a_document_counts_that_any_member_has_right() -> None:
    known = {"a": answers(1, 0, 0, 1), "b": answers(0, 1, 0, 1), "pair": answers(0, 0, 1, 1)}
    found = found_in(run(pair=["a", "b"]), PASS, known)
    assert set(found) == {"pair"}
    assert found["pair"].members == ("a", "b")
    assert found["pair"].estimate.value == 0.75
    assert found["pair"].estimate.method == "Wilson"


def test_of_bits_per_byte_the_lower_one_of_each_document_counts_by_its_bytes() -> None:
    sizes = [10.0, 30.0]
    known = {"a": answers(20, 30, weight=sizes), "b": answers(10, 60, weight=sizes), "pair": answers(9, 9)}
    found = found_in(run(pair=["a", "b"]), BITS, known)["pair"].estimate
    assert found.value == pytest.approx((10 + 30) / 40)


def test_only_documents_that_all_members_answered_count() -> None:
    known = {"a": answers(0, 0, 1), "b": answers(1, 0, first=1), "pair": answers(1)}
    found = found_in(run(pair=["a", "b"]), PASS, known)["pair"].estimate
    assert (found.n, found.value) == (2, 1.0)  # d1: b has it; d2: a has it
    known["b"] = answers(1, first=7)
    assert found_in(run(pair=["a", "b"]), PASS, known) == {}


def test_members_of_the_ensembles_own_seed_are_taken() -> None:
    known = {"a": answers(0, 0), "b@0": answers(1, 1), "b@1": answers(1, 0), "pair@1": answers(0, 0)}
    found = found_in(run(pair=["a", "b"]), PASS, known)["pair@1"]
    assert found.members == ("a", "b@1")
    assert found.estimate.value == 0.5


@pytest.mark.parametrize("missing", ["not measured", "measured otherwise"])
def test_there_is_no_oracle_without_all_of_its_members(missing: str) -> None:
    known = {"a": answers(1), "b": answers(0), "pair": answers(0)}
    unlike = {}
    if missing == "not measured":
        del known["b"]
    else:
        unlike["b"] = "another prompt"
    assert found_in(run(pair=["a", "b"]), PASS, known, unlike) == {}


def test_the_line_under_a_table_has_members_oracle_and_ensembles(tmp_path: Path, fill_store: Any) -> None:
    with Store(tmp_path / "s.sqlite") as store:
        plain = fill_store(store)
        config = plain.config | {
            "models": plain.config["models"] | {"pair": {"ensemble": {"members": ["base", "alm"]}}}
        }
        with_pair = compare(store, plain.model_copy(update={"config": config}))
        assert not any("oracle over" in line for line in findings(compare(store, plain)))
    lines = [line for line in findings(with_pair) if "oracle over base and alm" in line]
    assert [line.partition(":")[0] for line in lines] == ["humaneval", "code_bpb", "text_bpb"]
    humaneval = with_pair.tasks[0]
    best = max(humaneval.estimates[name].value for name in ("base", "alm"))
    assert humaneval.oracles["pair"].estimate.value >= best
    assert f"pair {100 * humaneval.estimates['pair'].value:.1f}" in lines[0]
    assert "n = 41;" in lines[0]
