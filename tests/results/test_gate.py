"""Comparisons across runs and the gate: what differs is said, and green means measured and not worse."""

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

from crosstok.errors import UserError
from crosstok.results.compare.contrast import Contrast, contrast, side, sides
from crosstok.results.compare.flips import flips
from crosstok.results.gate import GateReport, Rule, gate
from crosstok.results.store.records import Cell, Model, Progress, Run, Sample, Score, Task, Verdict
from crosstok.results.store.store import Store
from crosstok.results.tables.contrast_table import contrast_frame, contrast_layout
from crosstok.results.tables.formats import WIDTH, render_layout

PASS = [{"name": "pass@1", "unit": "fraction", "higher_is_better": True}]
BPB = [
    {"name": "bits_per_byte", "unit": "bits/byte", "higher_is_better": False},
    {"name": "tail", "unit": "bits/byte", "higher_is_better": False},
]


def write(
    store: Store,
    run: str,
    model: str,
    *,
    passes: list[int] | None = None,
    bits: np.ndarray | None = None,
    status: Progress = Progress.COMPLETE,
    settings: dict[str, object] | None = None,
    tier: str = "namespaces",
    version: str = "1",
    verdict: str | None = None,
) -> None:
    """Write one model of a run: passes of ``code`` and bits of ``text``, each document one byte."""
    store.begin_run(Run(id=run, suite="s", config={}, environment={}, status=Progress.RUNNING))
    store.put_model(
        Model(
            fingerprint=f"{run}{model}", label=model, spec={}, tokenizer="t", parameters=1, vocabulary=1,
            provenance={}, build_s=0,
        )
    )  # fmt: skip
    for name, values, metrics in (("code", passes, PASS), ("text", bits, BPB)):
        if values is None:
            continue
        task = Task(
            fingerprint=f"{name}{version}", name=name, version=version, settings={}, source={"sha256": "1"},
            documents=len(values), metrics=metrics,
        )  # fmt: skip
        store.put_task(task)
        cell = Cell(
            fingerprint=f"{run}{model}{name}", model=f"{run}{model}", task=task.fingerprint, seed=0,
            settings=settings or {"dtype": "float32"}, status=Progress.RUNNING,
        )  # fmt: skip
        store.begin_cell(cell, run, model)
        at = [{"cell": cell.fingerprint, "document": f"{index:03}"} for index in range(len(values))]
        store.add_samples(
            [Sample(**place, text=f"{model} {place['document']}", bytes=1, tokens=1, seconds=0.1) for place in at],
            [
                Score(**place, metric=metric["name"], value=float(value))
                for place, value in zip(at, values, strict=True)
                for metric in metrics
            ],
        )
        if name == "code":
            store.add_verdicts(
                [
                    Verdict(**place, status=verdict or ("passed" if value else "failed"), integrity="split", tier=tier)
                    for place, value in zip(at, values, strict=True)
                ]
            )
        store.end_cell(cell.fingerprint, status, "" if status is Progress.COMPLETE else "stopped")
    store.end_run(run, status)


GOOD = [1] * 40 + [0] * 60
BAD = [1] * 20 + [0] * 80
BITS = np.random.default_rng(0).lognormal(0, 0.2, 60)


def judged(store: Store, *rules: str) -> GateReport:
    return gate(sides(store, store.run("new")), sides(store, store.run("old")), [Rule.parse(rule) for rule in rules])


def one_of(store: Store, task: str) -> Contrast:
    found = contrast([(sides(store, store.run("old"))["m"], sides(store, store.run("new"))["m"])])
    return next(one for one in found if one.task == task)


def test_the_same_numbers_pass_the_gate_with_p_1(store: Store) -> None:
    for run in ("old", "new"):
        write(store, run, "m", passes=GOOD, bits=BITS)
    report = judged(store)
    assert report.exit_code == 0
    assert [outcome.state for outcome in report.outcomes] == ["ok", "ok"]
    assert one_of(store, "code").difference.p == one_of(store, "text").difference.p == 1.0  # type: ignore[union-attr]  # compared


def test_a_gate_that_is_green_for_lack_of_documents_says_what_it_could_not_have_seen(store: Store) -> None:
    write(store, "old", "m", passes=[1] * 20 + [0] * 21)
    write(store, "new", "m", passes=[1] * 18 + [0] * 23)
    report = judged(store)
    assert report.exit_code == 0
    difference = one_of(store, "code").difference
    assert difference is not None
    assert f"MDE {100 * difference.detectable:.1f}, n=41" in report.text()
    assert "MDE: minimum detectable effect" in report.markdown()


def test_a_planted_loss_fails_by_default_and_by_rule(store: Store) -> None:
    write(store, "old", "m", passes=GOOD, bits=BITS)
    write(store, "new", "m", passes=BAD, bits=BITS * 1.05)
    assert judged(store).exit_code == 1
    assert [outcome.state for outcome in judged(store).outcomes] == ["regression", "regression"]
    assert judged(store, "code.pass@1 < -10pp & p<0.05").exit_code == 1
    assert judged(store, "code < -30pp").exit_code == 0
    assert judged(store, "code < -0.1").exit_code == 1
    assert judged(store, "text > +1%").exit_code == 1
    assert judged(store, "text > +6%").exit_code == 0
    assert judged(store, "text.tail > 4%").outcomes[0].state == "regression"
    assert {outcome.task for outcome in judged(store, "* > 1000%").outcomes} == {"code", "text"}


def test_any_loss_from_zero_is_beyond_every_percentage(store: Store) -> None:
    write(store, "old", "m", bits=np.zeros(20))
    write(store, "new", "m", bits=np.full(20, 0.1))
    assert judged(store, "text > 1000%").exit_code == 1
    assert judged(store, "text < -1000%").exit_code == 0


def test_a_gain_and_a_change_too_small_to_matter_are_no_regression(store: Store) -> None:
    write(store, "old", "m", passes=BAD, bits=BITS)
    write(store, "new", "m", passes=GOOD, bits=BITS * 1.005)
    report = judged(store)
    assert report.exit_code == 0
    assert "better" in report.outcomes[0].message
    assert "worse" in report.outcomes[1].message


def test_what_was_not_completely_measured_is_never_green(store: Store) -> None:
    write(store, "old", "m", passes=GOOD, bits=BITS)
    write(store, "new", "m", passes=GOOD, bits=BITS, status=Progress.PARTIAL)
    report = judged(store)
    assert report.exit_code == 3
    assert "m: partial, stopped" in report.text()


def test_a_missing_task_or_model_is_never_green(store: Store) -> None:
    write(store, "old", "m", passes=GOOD, bits=BITS)
    write(store, "old", "other", passes=GOOD)
    write(store, "new", "m", passes=GOOD)
    write(store, "new", "third", passes=GOOD)
    report = judged(store)
    assert report.exit_code == 3
    assert {(o.model, o.task) for o in report.outcomes if o.state == "incomplete"} == {
        ("other", "all tasks"),
        ("m", "text"),
    }


def test_sandbox_errors_are_never_green(store: Store) -> None:
    write(store, "old", "m", passes=GOOD)
    write(store, "new", "m", passes=GOOD, verdict="sandbox_error")
    report = judged(store)
    assert report.exit_code == 3
    assert "100 sandbox errors" in report.text()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"settings": {"dtype": "bfloat16"}}, "dtype: float32 and bfloat16"),
        ({"tier": "process"}, "verdicts: split namespaces and split process"),
        ({"version": "2"}, "version of the task: 1 and 2"),
    ],
)
def test_what_was_measured_otherwise_is_not_compared_and_says_why(
    store: Store, change: dict[str, object], reason: str
) -> None:
    write(store, "old", "m", passes=GOOD)
    write(store, "new", "m", passes=BAD, **change)  # type: ignore[arg-type]  # one of three keywords
    found = one_of(store, "code")
    assert found.difference is None
    assert reason in found.mismatch
    assert judged(store).exit_code == 3
    assert reason in judged(store).markdown()


def test_the_prompt_style_belongs_to_the_model_and_is_only_remarked(store: Store) -> None:
    write(store, "old", "m", passes=GOOD, settings={"style": "raw"})
    write(store, "new", "m", passes=BAD, settings={"style": "chat"})
    found = one_of(store, "code")
    assert found.difference is not None
    assert "style: raw and chat" in render_layout(contrast_layout([found]), "md")


def test_a_gate_without_anything_to_judge_is_not_green() -> None:
    assert GateReport("a", "b", ()).exit_code == 3


@pytest.mark.parametrize("text", ["code", "code < ", "code = 3", "code < x", "< 3", "code < 1pp & p<5", "code<1 p<.1"])
def test_a_rule_that_is_none_is_one_clear_line(text: str) -> None:
    with pytest.raises(UserError, match="is not a rule of the gate"):
        Rule.parse(text)


def test_rules_name_tasks_that_exist_and_units_that_fit(store: Store) -> None:
    for run in ("old", "new"):
        write(store, run, "m", passes=GOOD, bits=BITS)
    with pytest.raises(UserError, match="Did you mean 'code'"):
        judged(store, "cdoe < -1pp")
    with pytest.raises(UserError, match="percentage points"):
        judged(store, "text > 1pp")


def test_a_rule_is_read_in_any_spacing() -> None:
    assert Rule.parse("a.b<-1.0pp&p<0.05") == Rule("a.b<-1.0pp&p<0.05", "a.b", True, -1.0, "pp", 0.05)
    assert Rule.parse(" text  >  +1 % ").unit == "%"


def test_the_reports_agree_and_are_well_formed(store: Store) -> None:
    write(store, "old", "m", passes=GOOD, bits=BITS)
    write(store, "new", "m", passes=BAD, bits=None)
    report = judged(store)
    assert report.exit_code == 1
    content = json.loads(report.json())
    assert content["exit_code"] == 1
    assert [outcome["state"] for outcome in content["outcomes"]] == ["regression", "incomplete"]
    root = ET.fromstring(report.junit())
    suite = root.find("testsuite")
    assert suite is not None
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("2", "1", "1")
    assert len(suite.findall("testcase/failure")) == len(suite.findall("testcase/error")) == 1
    assert report.markdown().count("\n| regression") == 1
    assert report.text().splitlines()[1].strip().startswith("regression")


def test_control_characters_cannot_break_the_xml() -> None:
    report = GateReport("\x00a", "b<", ())
    assert "\ufffda" in (ET.fromstring(report.junit())[0].get("name") or "")


def test_a_model_is_named_by_itself_or_with_its_run(store: Store) -> None:
    write(store, "old", "m", passes=GOOD)
    write(store, "new", "n", passes=GOOD)
    assert side(store, "n", store.run("new")).run.id == "new"
    assert side(store, "old/m", store.run("new")).run.id == "old"
    with pytest.raises(UserError, match="Unknown model of run new 'k'"):
        side(store, "k", store.run("new"))
    with pytest.raises(UserError, match="Unknown run 'never'"):
        side(store, "never/m", store.run("new"))


def test_models_of_one_run_are_shown_against_the_first_with_their_differences(filled: Path) -> None:
    with Store(filled, read_only=True) as store:
        found = sides(store, store.run())
        every = contrast([(found["base"], found[name]) for name in ("fvt", "pair")])
        text = render_layout(contrast_layout(every), "md")
        frame = contrast_frame(every)
    assert max(map(len, text.splitlines())) <= WIDTH
    assert "worse (n=24)" in text
    assert "MDE 18.6, n=41" in text
    assert len(frame) == 6
    assert ((frame["low"] <= frame["difference"]) & (frame["difference"] <= frame["high"])).all()
    np.testing.assert_allclose(frame["difference"], frame["after"] - frame["before"])


def test_flips_show_both_answers_and_verdicts(store: Store) -> None:
    write(store, "old", "m", passes=[1, 1, 0, 0])
    write(store, "new", "m", passes=[1, 0, 1, 0])
    found = flips(store, one_of(store, "code"))
    assert [(flip.document, flip.gained) for flip in found] == [("001", False), ("002", True)]
    assert found[0].before is not None
    assert found[0].before.text == "m 001"
    assert found[0].verdict_before is not None
    assert found[0].verdict_after is not None
    assert (found[0].verdict_before.status, found[0].verdict_after.status) == ("passed", "failed")


def test_comparing_nothing_is_one_clear_line() -> None:
    with pytest.raises(UserError, match="no task in common"):
        contrast_layout([])
