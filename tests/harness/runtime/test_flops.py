"""Operations per token, against numbers computed by hand."""

from pathlib import Path
from typing import Any

import pytest
from tiny_models import Shape, tiny_model
from torch import nn
from toy_tokenizers import toy_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

from crosstok.distill.ensemble import save_ensemble
from crosstok.distill.models import checkpoints
from crosstok.harness.runtime.flops import compute_of

# width 16, 2 layers, 4 heads of 4 with 2 of keys, inner width 24, 50 ids
SHAPE: dict[str, Any] = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 24, "vocab_size": 50,
}  # fmt: skip
ATTENTION = 16 * 16 + 16 * 8 + 16 * 8 + 16 * 16  # queries, keys, values, output
INNER = 3 * 16 * 24


@pytest.mark.parametrize("tied", [True, False])
def test_a_token_costs_two_operations_per_weight_and_tables_that_are_looked_up_nothing(tied: bool) -> None:
    model = LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=tied))
    assert compute_of(model) == {
        "body": 2 * 2 * (ATTENTION + INNER),
        "head": 2 * 50 * 16,
        "context": 4 * 2 * 16,
    }


def test_of_experts_only_those_that_a_token_visits_are_counted() -> None:
    config = MixtralConfig(**SHAPE, num_local_experts=4, num_experts_per_tok=2)
    router = 16 * 4
    assert compute_of(MixtralForCausalLM(config))["body"] == 2 * 2 * (ATTENTION + router + 2 * INNER)


@pytest.mark.parametrize("tokens", ["same", "shared", "mined", "union"])
def test_an_ensemble_costs_what_its_members_cost_where_one_token_is_one_token_to_all(
    tokens: Any, tmp_path: Path
) -> None:
    shapes: tuple[Shape, ...] = ("llama", "gemma3")
    folders = [tmp_path / shape for shape in shapes]
    for seed, (folder, shape) in enumerate(zip(folders, shapes, strict=True)):
        tiny_model(toy_tokenizer("bpe"), shape, seed=seed).save_pretrained(folder)
        toy_tokenizer("bpe").save_pretrained(folder)
    pair = checkpoints.load(save_ensemble(tmp_path / tokens, folders, tokens=tokens)).model
    alone = [compute_of(checkpoints.load(folder).model) for folder in folders]
    summed = {part: alone[0][part] + alone[1][part] for part in ("body", "head", "context")}
    assert compute_of(pair) == (summed if tokens in {"same", "shared"} else {})


def test_nothing_is_stated_of_a_model_without_an_output_matrix() -> None:
    model = LlamaForCausalLM(LlamaConfig(**SHAPE))
    model.lm_head = nn.Identity()
    assert compute_of(model) == {}
