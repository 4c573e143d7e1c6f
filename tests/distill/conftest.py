"""Fixtures of the model side: tiny models on disk, and the real one out of the cache."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from real_models import real_source
from toy_tokenizers import toy_tokenizer

from crosstok.distill.models import checkpoints
from crosstok.distill.models.checkpoints import Checkpoint


@pytest.fixture(scope="session", autouse=True)
def _two_threads() -> None:
    torch.set_num_threads(2)


@pytest.fixture(scope="session")
def smollm2() -> Iterator[Checkpoint]:
    """SmolLM2-135M-Instruct in float32, loaded once; tests must not change it."""
    return checkpoints.load(real_source("smollm2-135m-instruct"))


@pytest.fixture(scope="session")
def save_tiny() -> Callable[..., Path]:
    """Return ``save_tiny(folder, tokenizer="bpe", shape="llama", **options)``, which writes a tiny model's folder."""
    from tiny_models import tiny_model  # torch is loaded only by the tests that need a model

    def save(folder: Path, tokenizer: str = "bpe", shape: Any = "llama", **options: Any) -> Path:
        wanted = toy_tokenizer(tokenizer)
        tiny_model(wanted, shape, **options).save_pretrained(folder)
        wanted.save_pretrained(folder)
        return folder

    return save


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Point crosstok at a cache folder of its own, which does not exist yet."""
    monkeypatch.setenv("CROSSTOK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
