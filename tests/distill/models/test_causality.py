"""Models whose earlier logits depend on later tokens are refused; causal models never are."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import tiny_model
from toy_tokenizers import toy_tokenizer
from transformers import (
    BertConfig,
    BertLMHeadModel,
    BloomConfig,
    BloomForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    MambaConfig,
    MambaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    MptConfig,
    MptForCausalLM,
    PreTrainedModel,
    XLNetConfig,
    XLNetLMHeadModel,
)

from crosstok.distill import ensemble
from crosstok.distill.models import checkpoints, weights
from crosstok.errors import UserError

TOKENIZER = toy_tokenizer("bpe")
SHARED: dict[str, Any] = {
    "vocab_size": len(TOKENIZER),
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "pad_token_id": TOKENIZER.pad_token_id,
}
GEMMA = {**SHARED, "num_key_value_heads": 1, "head_dim": 16}
MOST_CHANGES = {"vocab_size": SHARED["vocab_size"], "d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 64}


def save(model: PreTrainedModel, folder: Path) -> Path:
    model.save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    return folder


def look_ahead() -> dict[str, PreTrainedModel]:
    torch.manual_seed(0)
    return {
        "bert": BertLMHeadModel(BertConfig(**SHARED)),
        "xlnet": XLNetLMHeadModel(XLNetConfig(**MOST_CHANGES)),
        "gemma3": Gemma3ForCausalLM(Gemma3TextConfig(**GEMMA, use_bidirectional_attention=True)),
    }


def causal() -> dict[str, PreTrainedModel]:
    torch.manual_seed(0)
    plain = {key: SHARED[key] for key in ("vocab_size", "hidden_size", "pad_token_id")}
    return {
        "bert": BertLMHeadModel(BertConfig(**SHARED, is_decoder=True)),
        "bloom": BloomForCausalLM(BloomConfig(**plain, n_layer=2, n_head=2)),
        "gemma3": Gemma3ForCausalLM(Gemma3TextConfig(**GEMMA)),
        "gpt2": tiny_model(TOKENIZER, "gpt2"),
        "llama": tiny_model(TOKENIZER),
        "mamba": MambaForCausalLM(MambaConfig(**plain, num_hidden_layers=2)),
        "mixtral": MixtralForCausalLM(MixtralConfig(**SHARED, num_key_value_heads=1, router_jitter_noise=0.1)),
        "mpt": MptForCausalLM(MptConfig(vocab_size=len(TOKENIZER), d_model=32, n_layers=2, n_heads=2)),
    }


@pytest.mark.parametrize("name", ["bert", "xlnet", "gemma3"])
def test_a_model_that_sees_later_tokens_is_refused(tmp_path: Path, name: str) -> None:
    folder = save(look_ahead()[name], tmp_path / name)
    with pytest.raises(UserError, match=rf"{name} is not a causal model: .*last token\. Use a causal"):
        checkpoints.load(folder)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["bert", "bloom", "gemma3", "gpt2", "llama", "mamba", "mixtral", "mpt"])
def test_a_causal_model_is_never_refused(tmp_path: Path, name: str, dtype: str) -> None:
    assert checkpoints.load(save(causal()[name], tmp_path / name), dtype=dtype).model.dtype == weights.torch_dtype(
        dtype
    )


def test_a_model_that_sees_later_tokens_is_refused_in_low_precision(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a causal model"):
        checkpoints.load(save(look_ahead()["gemma3"], tmp_path / "gemma3"), dtype="bfloat16")


def test_the_members_of_an_ensemble_are_checked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [save(tiny_model(TOKENIZER, seed=seed), tmp_path / str(seed)) for seed in (1, 2)]
    ensemble.save_ensemble(tmp_path / "both", folders)
    check, checked = weights._check_causal, []

    def counted(model: PreTrainedModel, folder: Path) -> None:
        checked.append(Path(folder).name)
        check(model, folder)

    monkeypatch.setattr(weights, "_check_causal", counted)
    checkpoints.load(tmp_path / "both")
    assert checked == ["1", "2"]
