"""``crosstok inspect`` on a tiny expanded model: page, data, and one line for what cannot be inspected."""

import csv
import json
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from tiny_models import tiny_model
from toy_tokenizers import toy_tokenizer
from typer.testing import CliRunner

from crosstok.distill.inspection import Inspection, inspect
from crosstok.distill.inspection.records import Row, Spread
from crosstok.distill.models import checkpoints, provenance
from crosstok.distill.recipes.student import check_student, make_student
from crosstok.errors import UserError
from crosstok.harness.cli.app import app
from crosstok.harness.inspection.page import page, summary, write_inspection

NEW = 8
STEPS = 3
ATTACK = "</script><script>document.title='owned'</script><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def grown(tiny_folder: Path, texts_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with eight more tokens, trained for three steps."""
    out, texts = tmp_path_factory.mktemp("grown") / "grown", f"jsonl:{texts_file}"
    command = ["expand", str(tiny_folder), str(out), "--tokens", f"train_bpe:{texts}:{NEW}", "--corpus", texts]
    command += ["--steps", str(STEPS), "--set", "batch=2", "--set", "window_bytes=64", "--set", "lr=0.01"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    return out


@pytest.fixture(scope="module")
def found(grown: Path, tiny_folder: Path, texts_file: Path) -> Inspection:
    return inspect(grown, tiny_folder, traces=2, corpus=f"jsonl:{texts_file}")


class _Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}


def test_the_command_writes_a_page_and_its_data_and_says_the_numbers(
    grown: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "here"
    command = ["inspect", str(grown), "--against", str(tiny_folder), "--out", str(out), "--traces", "1"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert f"{NEW} new tokens" in result.output
    assert str(out / "index.html") in result.output
    written = {path.name for path in out.iterdir()}
    assert written == {
        "index.html",
        "inspection.json",
        "tokens.csv",
        "neighbours.csv",
        "movement.csv",
        "layers.csv",
    }


def test_data_are_the_inspection_itself_and_its_tables(found: Inspection, tmp_path: Path) -> None:
    write_inspection(found, tmp_path)
    assert Inspection.model_validate_json((tmp_path / "inspection.json").read_text("utf-8")) == found
    tables = {
        name: list(csv.DictReader((tmp_path / f"{name}.csv").open(encoding="utf-8", newline="")))
        for name in ("tokens", "neighbours", "movement", "layers")
    }
    assert [int(row["id"]) for row in tables["tokens"]] == [token.id for token in found.tokens]
    first = found.tokens[0].rows["both"]
    assert float(tables["tokens"][0]["norm"]) == first.norm
    assert [row["old_text"] for row in tables["neighbours"][: len(first.neighbours)]] == [
        near.text for near in first.neighbours
    ]
    assert [int(row["step"]) for row in tables["movement"]] == list(range(STEPS + 1))
    assert float(tables["layers"][-1]["log_new"]) == found.traces[-1].layers[-1].log_new


def test_the_page_draws_every_part_and_explains_every_number(found: Inspection) -> None:
    text = page(found)
    drawings = 4 * len(found.matrices) + len(found.movement) + len(found.traces)
    assert _Tags(text).tags.count("svg") == drawings == 7
    plain = text.replace("&#39;", "'")
    for name, field in type(found.matrices[0]).model_fields.items():
        if name not in {"kind", "width", "new", "old", "axes", "old_places"}:
            assert str(field.description) in plain, name
    for name in ("effective_rank", "mean_cosine", "norms"):
        assert str(type(found.matrices[0].new).model_fields[name].description) in plain
    for token in found.tokens:
        assert text.count(f'<th scope="row"><code>{token.text}</code></th>') >= 1
    assert "reconstruction" in text
    assert "2508.15807" in text


def test_ids_of_drawings_never_meet(found: Inspection) -> None:
    ids: list[str] = []

    class Ids(HTMLParser):
        def handle_starttag(self, _: str, attrs: list[tuple[str, str | None]]) -> None:
            ids.extend(str(value) for name, value in attrs if name == "id")

    Ids().feed(page(found))
    assert len(ids) == len(set(ids)) > 0


def test_a_hostile_token_is_text_wherever_it_is_shown(found: Inspection) -> None:
    row: Row = found.tokens[0].rows["both"]
    near = [row.neighbours[0].model_copy(update={"text": ATTACK}), *row.neighbours[1:]]
    hostile = found.tokens[0].model_copy(
        update={
            "text": ATTACK,
            "pieces": [ATTACK],
            "rows": {"both": row.model_copy(update={"neighbours": near})},
        }
    )
    layer = found.traces[0].layers[0]
    guess = layer.student[0].model_copy(update={"text": ATTACK})
    trace = found.traces[0].model_copy(
        update={
            "text": ATTACK,
            "pieces": [ATTACK],
            "context": ATTACK,
            "layers": [layer.model_copy(update={"student": [guess]})],
        }
    )
    moved = found.movement[0].model_copy(update={"paths": {ATTACK: [(0.0, 0.0), (1.0, 1.0)]}})
    text = page(
        found.model_copy(
            update={"model": ATTACK, "tokens": [hostile], "traces": [trace], "movement": [moved], "notes": [ATTACK]}
        )
    )
    tags = _Tags(text)
    assert not {"script", "img"} & set(tags.tags)
    assert "onerror" not in tags.attributes
    assert text.count("&lt;img") >= 7


def test_the_same_inspection_is_the_same_page_again(found: Inspection) -> None:
    assert page(found) == page(found)


def test_a_student_that_was_only_initialised_has_no_movement_and_the_page_says_why(
    grown: Path, tiny_folder: Path, texts_file: Path, tmp_path: Path
) -> None:
    still = tmp_path / "still"
    shutil.copytree(grown, still, ignore=shutil.ignore_patterns("row-snapshots"))
    found = inspect(still, tiny_folder, traces=0, corpus=f"jsonl:{texts_file}")
    assert (found.movement, found.traces) == ([], [])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "movement.csv").write_text("of an earlier inspection", "utf-8")
    written = write_inspection(found, tmp_path / "out")
    assert not (tmp_path / "out" / "movement.csv").exists()
    assert "has no row snapshots" in written.read_text("utf-8")
    assert any("has no row snapshots" in line for line in summary(found))


def test_a_number_that_is_not_there_is_not_zero(found: Inspection) -> None:
    nothing = Spread(n=0, mean=None, low=None, median=None, high=None)
    matrix = found.matrices[0].model_copy(update={"to_constituents": nothing, "part_rank": None})
    lines = list(summary(found.model_copy(update={"matrices": [matrix]})))
    assert any(line.split()[-1] == "n/a" and "mean of old spelling" in line for line in lines)
    assert any(line.split()[-1] == "n/a" and "nearest piece" in line for line in lines)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{tiny}"], "parent of"),
        (["{tiny}", "--against", "{tiny}"], "has no new tokens"),
        (["{grown}", "--against", "{wide}"], "cannot be compared"),
        (["{grown}"], "records no local paths"),
        (["{grown}", "--against", "{tiny}", "--token", "no token at all"], "is not a token of"),
        (["/nowhere/at/all"], "/nowhere/at/all"),
        (["{grown}", "--against", "/nowhere/at/all"], "/nowhere/at/all"),
    ],
)
def test_what_cannot_be_inspected_is_one_clear_line_and_leaves_no_file(
    arguments: list[str], said: str, tiny_folder: Path, grown: Path, tmp_path: Path
) -> None:
    wide = tmp_path / "wide"
    tokenizer = toy_tokenizer("bpe")
    tiny_model(tokenizer, width=64).save_pretrained(wide)
    tokenizer.save_pretrained(wide)
    named = [text.format(tiny=tiny_folder, grown=grown, wide=wide) for text in arguments]
    result = CliRunner().invoke(app, ["inspect", *named, "--out", str(tmp_path / "out")])
    assert isinstance(result.exception, UserError)
    assert said in str(result.exception)
    assert "\n" not in str(result.exception).strip()
    assert not (tmp_path / "out").exists()


def changed(parent: Path, folder: Path) -> Path:
    """Return a copy of ``parent`` under its name in ``folder``, with one number of its rows changed."""
    copy = folder / parent.name
    shutil.copytree(parent, copy)
    weights = load_file(copy / "model.safetensors")
    next(iter(weights.values())).view(-1)[0] += 1
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    return copy


def test_a_parent_that_changed_since_is_never_compared_with_in_silence(
    grown: Path, tiny_folder: Path, texts_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The record names a folder by its name alone, so it is found from beside it.
    command = ["inspect", str(grown), "--traces", "0", "--out", str(tmp_path / "out")]
    monkeypatch.chdir(tiny_folder.parent)
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "has changed since" not in result.output
    other = changed(tiny_folder, tmp_path / "elsewhere")
    monkeypatch.chdir(other.parent)
    shutil.rmtree(tmp_path / "out")
    result = CliRunner().invoke(app, command)
    assert isinstance(result.exception, UserError)
    was, now = checkpoints.identify(tiny_folder), checkpoints.identify(other)
    assert (
        f"{tiny_folder.name} has changed since {grown} was derived from it: its fingerprint was {was} and is now {now}."
        in (str(result.exception))
    )
    assert not (tmp_path / "out").exists()
    result = CliRunner().invoke(app, [*command, "--against", str(other)])
    assert result.exit_code == 0, result.output
    assert "is not the model that this student was derived from, or has changed since" in result.output
    page_text = (tmp_path / "out" / "index.html").read_text("utf-8")
    assert f"fingerprint {now}, expected {was}" in page_text


def test_a_student_of_a_student_is_compared_with_the_first_model_or_with_the_student_it_was_made_from(
    grown: Path, tiny_folder: Path, texts_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = tmp_path / "second"
    spec = check_student(
        "distil",
        {"from": str(grown), "teacher": str(tiny_folder), "corpus": f"jsonl:{texts_file}", "loss": ["kl"], "steps": 1,
         "batch": 1, "window_bytes": 64},
    )  # fmt: skip
    make_student(spec, second)
    record = provenance.read(second)
    assert record is not None
    assert record.source_fingerprint == checkpoints.identify(grown)
    assert record.root_fingerprint == checkpoints.identify(tiny_folder)
    monkeypatch.chdir(tiny_folder.parent)
    assert not any("made from" in note for note in inspect(second, traces=0).notes)
    with pytest.raises(UserError, match="has no new tokens"):
        inspect(second, grown, traces=0)


def test_a_folder_that_cannot_be_written_is_one_clear_line(found: Inspection, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file", "utf-8")
    with pytest.raises(UserError, match="cannot be written"):
        write_inspection(found, tmp_path / "taken")


def test_a_token_of_the_readers_choice_is_traced(
    grown: Path, tiny_folder: Path, found: Inspection, texts_file: Path
) -> None:
    chosen = found.tokens[-1]
    again = inspect(grown, tiny_folder, traces=0, tokens=[chosen.text], corpus=f"jsonl:{texts_file}")
    assert [trace.id for trace in again.traces] == [chosen.id]
    assert json.loads(again.model_dump_json())["traces"][0]["pieces"] == chosen.pieces
