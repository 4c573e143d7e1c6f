"""The page stands alone, keeps hostile answers text, and stays of bearable size."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from crosstok.errors import UserError
from crosstok.results.store.records import Cell, Model, Progress, Run, Sample, Task, Verdict
from crosstok.results.store.store import Store
from crosstok.results.web.page import CHARACTERS, DOCUMENTS, natural, page, write_page

VOID = {"meta", "br", "path", "use", "link", "img", "rect", "circle"}


class Reader(HTMLParser):
    """Collects tags and text, and asserts that every tag is closed where it must be."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    assert not reader.open
    return reader


@pytest.fixture(scope="module")
def shown(filled: Path) -> str:
    with Store(filled, read_only=True) as store:
        return page(store, store.latest_run())


def test_the_page_asks_nothing_of_the_network_and_runs_no_script(shown: str) -> None:
    reader = read(shown)
    assert {tag for tag, _ in reader.tags}.isdisjoint({"script", "link", "img", "iframe", "object", "base", "form"})
    for _, attributes in reader.tags:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("href", "xlink:href", "src"):
            assert (attributes.get(name) or "#").startswith("#")
    assert "@import" not in shown
    assert not re.search(r"url\((?!#)", shown)
    assert any(name == "http-equiv" for _, attributes in reader.tags for name in attributes)


def test_a_hostile_answer_stays_text(shown: str) -> None:
    reader = read(shown)
    assert "</details><script>alert('x')</script> ␛[31mred␛[0m & <b>" in reader.text
    assert "\x1b" not in shown
    assert "b" not in {tag for tag, _ in reader.tags}


def test_the_page_has_table_plots_sentences_and_environment(shown: str) -> None:
    reader = read(shown)
    assert [attributes for tag, attributes in reader.tags if tag == "svg"].__len__() == 3
    for needed in (
        "Not significantly different",
        "bits/byte (lower is better)",
        "2.13.0",
        "HumanEval/40",
        "byte_budget",
    ):
        assert needed in reader.text
    assert shown.count("#010203") == 0
    assert "currentColor" in shown


def test_problems_stand_in_the_order_of_their_numbers(shown: str) -> None:
    numbers = [int(found) for found in re.findall(r"<summary>HumanEval/(\d+):", shown)]
    assert numbers == sorted(numbers)
    assert len(numbers) == 41
    assert natural("a/9") < natural("a/10") < natural("b/1")


def test_ids_are_unique_so_that_no_plot_borrows_from_another(shown: str) -> None:
    ids = [attributes["id"] for tag, attributes in read(shown).tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def fill(store: Store, documents: int, text: str) -> Run:
    run = Run(id="r", suite="<s>", config={"models": {"<m>": {}}}, environment={"a": {"b": 1}}, status=Progress.RUNNING)
    store.begin_run(run)
    metrics = [{"name": "pass@1", "unit": "fraction", "higher_is_better": True}]
    store.put_task(
        Task(fingerprint="t", name="t", version="1", settings={}, source={}, documents=documents, metrics=metrics)
    )
    store.put_model(
        Model(fingerprint="m", label="$x$", spec={}, tokenizer="", parameters=1, vocabulary=1, provenance={}, build_s=0)
    )
    cell = Cell(fingerprint="c", model="m", task="t", seed=0, settings={}, status=Progress.RUNNING)
    store.begin_cell(cell, "r", "<m>")
    names = [f"d/{number}" for number in range(documents)]
    store.add_samples(
        Sample(cell="c", document=name, text=text, prompt=text, stop_reason="stop", bytes=1, tokens=1, seconds=0.1)
        for name in names
    )
    store.add_verdicts(
        Verdict(cell="c", document=name, status="failed", integrity="split", tier="t", error=text) for name in names
    )
    return run


def test_the_page_is_capped_however_much_the_models_wrote(tmp_path: Path) -> None:
    with Store(tmp_path / "s.sqlite") as store:
        run = fill(store, 500, "<&\x00" * 50_000)
        text = page(store, run)
    assert "60 of 500 documents are shown" in read(text).text
    assert len(text) < 100_000 + DOCUMENTS * 3 * CHARACTERS * 8
    assert "\x00" not in text
    assert "more characters" in text


def test_a_run_without_any_score_still_has_a_page_that_says_so(tmp_path: Path) -> None:
    with Store(tmp_path / "s.sqlite") as store:
        text = page(store, fill(store, 1, "x"))
    reader = read(text)
    assert "This run is running" in reader.text
    assert "svg" not in {tag for tag, _ in reader.tags}


def test_the_page_replaces_an_older_one_whole_and_says_where_it_cannot_be_written(filled: Path, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text("old")
    with Store(filled, read_only=True) as store:
        assert write_page(store, None, path) == path
        assert path.read_text(encoding="utf-8").endswith("</html>")
        assert write_page(store, None, tmp_path / "new" / "folder" / "page.html").is_file()
        with pytest.raises(UserError, match=r"cannot be written: (Not a directory|File exists)"):
            write_page(store, None, path / "page.html")
        with pytest.raises(UserError, match="cannot be written: Is a directory"):
            write_page(store, None, tmp_path / "new")
    assert sorted(found.name for found in tmp_path.iterdir()) == ["new", "page.html"]
