"""Text sources: names, parts, provenance, and what is said when a source cannot be read."""

import gzip
import json
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import datasets
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosstok.corpora import hold_out, load_texts
from crosstok.docstrings import prose
from crosstok.errors import UserError


def write_rows(path: Path, rows: list[dict[str, object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(lines.encode()) if path.suffix == ".gz" else lines.encode())
    return path


def both_parts(name: str, data: Path | None = None) -> tuple[dict[str, str], dict[str, str]]:
    parts = (load_texts(name, split, data).documents for split in ("train", "heldout"))
    train, heldout = ({text.id: text.text for text in part} for part in parts)
    return train, heldout


def held_out_by_definition(ids: list[str], share: float) -> set[str]:
    return {identity for identity in ids if int(sha256(identity.encode()).hexdigest()[:16], 16) / 2**64 < share}


# Holding out.


def test_a_document_is_held_out_by_the_hash_of_its_id_alone() -> None:
    ids = [f"file{number}.py" for number in range(1000)]
    held = hold_out(ids)
    assert held == held_out_by_definition(ids, 0.06)
    assert 30 < len(held) < 90
    assert hold_out(ids[:500]) == {identity for identity in held if identity in ids[:500]}


@given(ids=st.lists(st.text(max_size=8), unique=True, max_size=12))
def test_whoever_has_two_documents_can_train_and_measure(ids: list[str]) -> None:
    held = hold_out(ids)
    assert len(ids) < 2 or held
    assert held <= set(ids)
    assert hold_out(ids[::-1]) == held


# What is on every machine.


def test_stdlib_is_the_running_pythons_source_without_tests_and_packages() -> None:
    train, heldout = both_parts("stdlib")
    assert not set(train) & set(heldout)
    everything = train | heldout
    assert {"argparse.py", "json/decoder.py", "email/message.py"} <= set(everything)
    assert "def dumps" in everything["json/__init__.py"]
    assert not [path for path in everything if {"site-packages", "test", "tests"} & set(path.split("/"))]
    assert not [path for path in everything if "_sysconfigdata" in path]  # it holds paths of the building machine
    assert 0.02 < len(heldout) / len(everything) < 0.12
    source = load_texts("stdlib", "train").source
    assert source["kind"] == "stdlib"
    assert source["revision"] == f"Python {sys.version.split()[0]}"
    assert source["documents"] == len(train)
    assert source["bytes"] == sum(len(text.encode()) for text in train.values())


def test_docstrings_are_prose_of_the_installed_packages() -> None:
    train, heldout = both_parts("docstrings")
    assert not set(train) & set(heldout)
    assert len(heldout) >= 30
    assert {path.split("/")[0] for path in train} == {"numpy", "pandas", "scipy"}
    text = "\n".join(train.values())
    assert len(text) > 500_000
    assert ">>>" not in text
    assert "numpy 2" in load_texts("docstrings", "train").source["revision"]


def test_prose_keeps_sentences_and_drops_examples_headings_and_types() -> None:
    source = '''
"""Tools for sorting things that have an order between them.

>>> sort([2, 1])
[1, 2]
"""

def sort(values):
    """Return the ``values`` in ascending order, equal ones as they came.

    Parameters
    ----------
    values : list of numbers
        The things to sort, which must have an order between them.

    Notes
    -----
    Too short.

    See :func:`~package.reverse` for the other way round, which is as fast.
    """
    text = "This is a string in the code and no docstring at all."

def _private():
    """This docstring is for the authors of the package and nobody else."""
'''
    assert prose(source).split("\n\n") == [
        "Tools for sorting things that have an order between them.",
        "Return the values in ascending order, equal ones as they came.",
        "See package.reverse for the other way round, which is as fast.\n",
    ]


def test_sources_on_every_machine_load_nothing_heavy() -> None:
    code = (
        "import sys; from crosstok.corpora import load_texts; load_texts('stdlib', 'train')\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'pandas', 'numpy', 'datasets')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Files.


def test_files_are_named_by_their_place_below_the_pattern(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt", "deep/c.txt", "deep/er/d.txt", "skip.md"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"text of {name}\r\n".encode())
    train, heldout = both_parts(f"files:{tmp_path}/**/*.txt")
    assert train | heldout == {
        name: f"text of {name}\r\n" for name in ("a.txt", "b.txt", "deep/c.txt", "deep/er/d.txt")
    }
    source = load_texts(f"files:{tmp_path}/**/*.txt", "train").source
    assert str(tmp_path) not in json.dumps(source)


def test_the_source_tells_texts_apart_and_equal_ones_not(tmp_path: Path) -> None:
    def digest(folder: str, text: str) -> str:
        for number in range(3):
            (tmp_path / folder).mkdir(exist_ok=True)
            (tmp_path / folder / f"{number}.txt").write_text(f"{text} {number}")
        return str(load_texts(f"files:{tmp_path}/{folder}/*.txt", "train").source["sha256"])

    assert digest("one", "text") == digest("two", "text") != digest("three", "other text")


def test_documents_without_text_are_left_out(tmp_path: Path) -> None:
    for number, text in enumerate(["words", "other words", " \n", ""]):
        (tmp_path / f"{number}.txt").write_text(text)
    train, heldout = both_parts(f"files:{tmp_path}/*")
    assert set(train | heldout) == {"0.txt", "1.txt"}


# JSON Lines and the data folder.


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz"])
def test_rows_are_named_by_their_own_id_where_it_is_unique(tmp_path: Path, suffix: str) -> None:
    rows = [{"id": f"row {number}", "path": "same", "text": f"text {number}"} for number in range(20)]
    train, heldout = both_parts(f"jsonl:{write_rows(tmp_path / f'rows.{suffix}', rows)}")
    assert train | heldout == {f"row {number}": f"text {number}" for number in range(20)}


def test_rows_without_a_unique_id_are_named_by_their_line(tmp_path: Path) -> None:
    rows = [{"path": "same", "body": f"text {number}"} for number in range(3)]
    train, heldout = both_parts(f"jsonl:{write_rows(tmp_path / 'rows.jsonl', rows)}#body")
    assert train | heldout == {"1": "text 0", "2": "text 1", "3": "text 2"}


def test_a_text_of_the_data_folder_keeps_its_own_parts(tmp_path: Path) -> None:
    write_rows(tmp_path / "text/news/train.jsonl.gz", [{"text": f"old {number}"} for number in range(9)])
    write_rows(tmp_path / "text/news/heldout.jsonl.gz", [{"text": "new"}])
    assert len(load_texts("news", "train", tmp_path).documents) == 9
    assert [text.text for text in load_texts("news", "heldout", tmp_path).documents] == ["new"]
    assert load_texts("news", "train", tmp_path).source["location"] == "text/news#text"


def test_a_text_without_a_held_out_file_is_told_apart_by_hash(tmp_path: Path) -> None:
    write_rows(tmp_path / "text/news/train.jsonl", [{"text": f"old {number}"} for number in range(9)])
    train, heldout = both_parts("news", tmp_path)
    assert len(train) + len(heldout) == 9
    assert heldout
    assert not set(train) & set(heldout)


# The hub.


def test_a_hub_data_set_is_loaded_with_its_revision_and_own_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(*arguments: object, **options: object) -> datasets.DatasetDict:
        asked.append((*arguments, options["revision"]))
        column = datasets.Dataset.from_dict({"body": ["one", "two"]})
        return datasets.DatasetDict({"train": column, "test": datasets.Dataset.from_dict({"body": ["three"]})})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    train, heldout = both_parts("hub:owner/name/config@abc123#body")
    assert asked == [("owner/name", "config", "abc123")] * 2
    assert (train, heldout) == ({"0": "one", "1": "two"}, {"0": "three"})
    with pytest.raises(UserError, match=r"no text field 'text'.*available fields: body"):
        load_texts("hub:owner/name", "train")


def test_a_hub_data_set_without_a_training_part_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    only = datasets.DatasetDict({"dev": datasets.Dataset.from_dict({"text": ["one"]})})
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: only)
    with pytest.raises(UserError, match=r"no split 'train'.*dev"):
        load_texts("hub:owner/name", "heldout")


def test_without_the_network_a_hub_data_set_is_one_clear_line() -> None:
    with pytest.raises(UserError, match=r"'nobody/nothing' could not be loaded.*HF_HUB_OFFLINE"):
        load_texts("hub:nobody/nothing", "train")


# Errors.


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("stdlip", "Did you mean 'stdlib'"),
        ("news", "CROSSTOK_DATA"),
        ("hub:name", "hub:owner/name"),
        ("files:/no/such/folder/*.txt", "No file matches"),
        ("jsonl:/no/such/file.jsonl", "could not be read"),
    ],
)
def test_a_wrong_name_is_one_clear_line(name: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CROSSTOK_DATA", raising=False)
    with pytest.raises(UserError, match=message) as caught:
        load_texts(name, "train")
    assert "\n" not in str(caught.value)


def test_a_wrong_split_is_an_error() -> None:
    with pytest.raises(UserError, match="Unknown split 'test'"):
        load_texts("stdlib", "test")  # type: ignore[arg-type]  # the point of the test


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"text": "fine"}\n{"text": \n', "line 2 is not JSON"),
        (b'{"text": "fine"}\n{"body": "x"}\n', "line 2 has no text field 'text'.*body"),
        (b'{"text": "fine"}\n[1]\n', "line 2 has no text field"),
        (b'{"text": "\xff"}\n', "not UTF-8"),
        (b'{"text": "only one"}\n', "no text in its heldout split"),
        (b"", "no text in its heldout split"),
    ],
)
def test_a_broken_file_is_one_clear_line(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "rows.jsonl").write_bytes(content)
    with pytest.raises(UserError, match=message):
        load_texts(f"jsonl:{tmp_path}/rows.jsonl", "heldout")


def test_a_broken_archive_is_one_clear_line(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl.gz", [{"text": f"text {number}"} for number in range(100)])
    whole = path.read_bytes()
    for broken in (whole[:-20], whole[:40] + b"????" + whole[44:], b"no archive"):
        path.write_bytes(broken)
        with pytest.raises(UserError, match="could not be read"):
            load_texts(f"jsonl:{path}", "train")
