"""The leaderboard as files: whole, self-contained, and honest about what cannot be compared."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from crosstok.errors import UserError
from crosstok.results.store.records import Cell, Model, Progress, Run, Sample, Score, Task
from crosstok.results.store.store import Store
from crosstok.results.web.answers import CHARACTERS, PER_FILE, script_safe
from crosstok.results.web.leaderboard import write_leaderboard
from crosstok.results.web.leaderboard_data import load_leaderboard
from crosstok.results.web.page import natural

ATTACK = "</script><script>document.title='owned'</script><img src=x onerror=alert(1)>"


def other_run(store: Store) -> None:
    """Add a later run with a model of a known name on another version of a known task."""
    store.begin_run(Run(id="later", suite="later", config={}, environment={}, status=Progress.RUNNING))
    metrics = [{"name": "pass@1", "unit": "fraction", "higher_is_better": True}]
    task = Task(
        fingerprint="v2", name="humaneval", version="2", settings={}, source={}, documents=4, metrics=metrics
    )  # fmt: skip
    store.put_task(task)
    model = Model(
        fingerprint="newcomer", label=ATTACK, spec={}, tokenizer="t", parameters=5, vocabulary=7,
        provenance={}, build_s=0,
    )  # fmt: skip
    store.put_model(model)
    cell = Cell(fingerprint="newcell", model="newcomer", task="v2", seed=0, settings={}, status=Progress.RUNNING)
    store.begin_cell(cell, "later", "alm")
    places = [{"cell": "newcell", "document": f"{ATTACK}{index}"} for index in range(4)]
    texts = [ATTACK, "\x1b[31mred\x1b[0m\x00\x07", "x" * 1_000_000, b"\xff\xfeabc".decode("utf-8", "replace")]
    store.add_samples(
        [
            Sample(**place, text=text, prompt=ATTACK, stop_reason="stop", bytes=9, tokens=3, seconds=0.1)
            for place, text in zip(places, texts, strict=True)
        ],
        [Score(**place, metric="pass@1", value=1.0) for place in places],
    )
    store.end_cell("newcell", Progress.COMPLETE)
    store.end_run("later", Progress.COMPLETE)


def test_a_model_stands_once_and_a_name_used_twice_gets_its_run(fill_store: Callable[..., Run], tmp_path: Path) -> None:
    with Store(tmp_path / "s.db") as store:
        fill_store(store)
        other_run(store)
        shown = load_leaderboard(store)
    names = [entrant.name for entrant in shown.models]
    assert names == ["alm", "base", "fvt", "sft", "alm (quickstart-1a2b3c4d)", "pair"]
    assert len({entrant.fingerprint for entrant in shown.models}) == len(names)


def test_another_version_of_a_task_is_marked_never_best_and_never_tested(
    fill_store: Callable[..., Run], tmp_path: Path
) -> None:
    with Store(tmp_path / "s.db") as store:
        fill_store(store)
        other_run(store)
        shown = load_leaderboard(store, baseline="base")
    column = next(column for column in shown.columns if column.task.name == "humaneval")
    newcomer = column.results["alm"]
    assert newcomer.estimate is not None
    assert newcomer.estimate.value == 1.0
    assert newcomer.standing == ""
    assert newcomer.difference is None
    assert "version of the task: 1 and 2" in " ".join(newcomer.remarks)
    assert "best" in {place.standing for place in column.results.values()}


def test_every_link_and_asset_of_every_page_is_in_the_folder(filled: Path, tmp_path: Path) -> None:
    with Store(filled, read_only=True) as store:
        told: list[tuple[int, int]] = []
        index = write_leaderboard(store, tmp_path / "board", tell=lambda done, of: told.append((done, of)))
    assert told == [(done, 8) for done in range(1, 9)]
    pages = sorted(index.parent.rglob("*.html"))
    assert len(pages) == 1 + 5 + 3
    for path in pages:
        text = path.read_text(encoding="utf-8")
        for target in re.findall(r'(?:href|src)="([^"]*)"', text):
            if target.startswith(("#", "data:")):
                continue
            assert "//" not in target
            file, _, anchor = target.partition("#")
            linked = (path.parent / file).resolve()
            assert linked.is_file(), target
            if anchor:
                assert f'id="{anchor}"' in linked.read_text(encoding="utf-8"), target


def test_answers_lie_in_small_files_that_hold_each_of_them_once(fill_store: Callable[..., Run], tmp_path: Path) -> None:
    with Store(tmp_path / "s.db") as store:
        fill_store(store)
        store.add_samples(
            Sample(cell="quickstart-base-humaneval", document=f"more/{n}", text="t", bytes=1, tokens=1, seconds=0.1)
            for n in range(80)
        )
        index = write_leaderboard(store, tmp_path / "board")
        stored = sorted((s.document for s in store.samples("quickstart-base-humaneval")), key=natural)
    files = sorted((index.parent / "answers" / "quickstart-base-humaneval").glob("*.js"), key=lambda p: int(p.stem))
    contents = [json.loads(p.read_text()[len("crosstokAnswers(") : -len(");\n")]) for p in files]
    assert [answer["document"] for content in contents for answer in content["answers"]] == stored
    assert max(len(content["answers"]) for content in contents) == PER_FILE
    assert [content["first"] for content in contents] == [1, 51, 101]


def test_hostile_names_and_answers_are_escaped_in_every_file(fill_store: Callable[..., Run], tmp_path: Path) -> None:
    with Store(tmp_path / "s.db") as store:
        fill_store(store)
        other_run(store)
        index = write_leaderboard(store, tmp_path / "board")
    for path in [*index.parent.rglob("*.html"), *index.parent.rglob("answers/**/*.js")]:
        text = path.read_text(encoding="utf-8")
        assert "<img" not in text
        assert "<script>" not in text
        assert "\x1b" not in text
        assert len(text) < 300_000
    answers = (index.parent / "answers" / "newcell" / "1.js").read_text()
    assert "<" not in answers
    assert f"[{1_000_000 - CHARACTERS} more characters]" in answers


def test_script_safe_json_reads_back_to_the_same_value() -> None:
    value = {"text": f"{ATTACK} & \u2028 é \ufffd", "list": [1, None, 0.5]}
    assert json.loads(script_safe(value)) == value
    assert set("<>&").isdisjoint(script_safe(value))


def test_a_second_leaderboard_replaces_the_first_and_nothing_else_is_ever_replaced(
    filled: Path, tmp_path: Path
) -> None:
    with Store(filled, read_only=True) as store:
        index = write_leaderboard(store, tmp_path / "board")
        (index.parent / "stale.html").write_text("old")
        assert write_leaderboard(store, tmp_path / "board") == index
        assert not (index.parent / "stale.html").exists()
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "thesis.tex").write_text("years of work")
        with pytest.raises(UserError, match="is not a leaderboard"):
            write_leaderboard(store, tmp_path / "mine")
        with pytest.raises(UserError, match="Did you mean 'base'"):
            write_leaderboard(store, tmp_path / "third", baseline="basse")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["board", "mine"]


def test_cost_means_and_the_use_of_new_tokens_are_shown(filled: Path, tmp_path: Path) -> None:
    with Store(filled, read_only=True) as store:
        index = write_leaderboard(store, tmp_path / "board")
    text = index.read_text(encoding="utf-8")
    for said in (
        "MFLOP/byte",
        "mean bits_per_byte",
        "over 2 tasks",
        "Share of new tokens",
        "Bits per byte of every model",
    ):
        assert said in text
    task = next((index.parent / "tasks").glob("humaneval*")).read_text(encoding="utf-8")
    for said in (
        "score against bytes per second",
        "score against MFLOP per byte",
        "paired differences",
    ):
        assert said in task


def test_training_curves_are_drawn_of_models_that_are_at_hand(filled: Path, tmp_path: Path) -> None:
    folder = tmp_path / "students" / "model-alm"
    folder.mkdir(parents=True)
    steps = [{"step": step, "loss": {"alm": 1.0 / step}, "bytes": 100} for step in range(1, 9)]
    (folder / "training.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps) + '{"step": 9, "lo')
    with Store(filled, read_only=True) as store:
        index = write_leaderboard(store, tmp_path / "board", students=tmp_path / "students")
    with_curves = [path.name for path in (index.parent / "models").iterdir() if "Training" in path.read_text()]
    assert [name.partition("-")[0] for name in with_curves] == ["alm"]
