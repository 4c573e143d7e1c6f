"""Tiny models and texts for the public API, as a user's working directory would hold them."""

import json
from pathlib import Path

import pytest


@pytest.fixture
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with a cache of its own, a tiny model in ``tiny`` and texts in ``texts.jsonl``."""
    from tiny_models import tiny_model  # torch is loaded only by the tests that need a model
    from toy_tokenizers import toy_tokenizer

    monkeypatch.setenv("CROSSTOK_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CROSSTOK_STORE", raising=False)
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    tokenizer = toy_tokenizer("bpe")
    tiny_model(tokenizer, positions=2048).save_pretrained(folder / "tiny")
    tokenizer.save_pretrained(folder / "tiny")
    rows = ({"id": f"t{n}", "text": f"def f{n}(x):\n    return x * {n}\n" * 4} for n in range(200))
    (folder / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder
