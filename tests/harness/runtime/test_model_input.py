"""The context length of a model, whatever its configuration calls it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny_models import tiny_model
from toy_tokenizers import toy_tokenizer
from transformers import (
    BloomConfig,
    Gemma3Config,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    MptConfig,
    XLNetConfig,
)

from crosstok.distill import ensemble
from crosstok.distill.models import checkpoints
from crosstok.harness.generation.generator import Generator
from crosstok.harness.runtime.model_input import context_tokens
from crosstok.tasks.task import Generate


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        (LlamaConfig(max_position_embeddings=48), 48),
        (GPT2Config(n_positions=48), 48),
        (MptConfig(max_seq_len=48), 48),
        (Gemma3Config(text_config=Gemma3TextConfig(max_position_embeddings=48)), 48),
        (BloomConfig(), None),
        (MambaConfig(), None),
        (XLNetConfig(), None),
    ],
    ids=lambda value: getattr(value, "model_type", value),
)
def test_the_context_length_is_found_under_every_name(config: Any, limit: int | None) -> None:
    checkpoint: Any = SimpleNamespace(model=SimpleNamespace(config=config))
    assert context_tokens(checkpoint) == limit


def test_an_ensemble_has_the_shortest_context_of_its_members_and_ends_answers_there(tmp_path: Path) -> None:
    tokenizer = toy_tokenizer("bpe")
    for positions in (64, 24):
        folder = tmp_path / str(positions)
        tiny_model(tokenizer, "gpt2", positions=positions, seed=positions).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    ensemble.save_ensemble(tmp_path / "both", [tmp_path / "64", tmp_path / "24"])
    checkpoint = checkpoints.load(tmp_path / "both")
    assert context_tokens(checkpoint) == 24
    (answer,) = Generator(checkpoint).generate([Generate("def f(x):", max_bytes=400, seeds=(1,))])
    assert answer.prompt_tokens + answer.tokens <= 25
    assert answer.stop_reason in {"context_full", "end"}
