"""A tiny model as a folder, texts as files, and suites over both."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from model_servers import TransformersServer, only_loopback
from tiny_models import tiny_model
from toy_tokenizers import toy_tokenizer


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer model with a toy BPE tokenizer, saved as any Hugging Face model is."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tokenizer = toy_tokenizer("bpe")
    tiny_model(tokenizer, positions=2048).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def transformers_server(tiny_folder: Path) -> Iterator[TransformersServer]:
    """The tiny model behind ``transformers serve``; a test that kills it starts it again."""
    only_loopback()
    server = TransformersServer(tiny_folder)
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def texts_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two hundred short texts, a few of which fall into the held-out split."""
    path = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    rows = ({"id": f"t{n}", "text": f"def f{n}(x):\n    return x * {n}\n" * 4} for n in range(200))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def suite_content(tiny_folder: Path, texts_file: Path) -> Callable[..., dict[str, Any]]:
    """Return a function that makes the content of a small suite over the tiny model."""

    def content(**changes: Any) -> dict[str, Any]:
        source = f"jsonl:{texts_file}"
        return {
            "name": "tiny",
            "models": {
                "base": {"source": str(tiny_folder)},
                "fvt": {"transfer": {"from": "base", "tokenizer": "bytes", "init": "fvt", "steps": 0}},
            },
            "tasks": [
                {"name": "humaneval", "limit": 3, "max_bytes": 40},
                {"name": "code_bpb", "task": "text_bpb", "source": source, "limit": 4, "passage_bytes": 128},
            ],
            **changes,
        }

    return content
