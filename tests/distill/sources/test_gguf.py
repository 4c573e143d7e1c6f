"""GGUF conversion: logits of the original come back, and what is not known is refused.

The files are written here, by a plain reading of how llama.cpp lays out its models, from tiny models whose logits are
known; the conversion must give those logits back. A wrong row order or a forgotten norm offset changes them by nats.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import dequantize, quantize
from tiny_models import tiny_model
from toy_tokenizers import toy_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from crosstok.distill.models import checkpoints
from crosstok.distill.sources.gguf_weights import convert, rows_of_halves
from crosstok.distill.tokenizers.tokenbytes import TokenBytes
from crosstok.errors import UserError

LAYER_NAMES = {
    "llama": {"post_attention_layernorm": "ffn_norm"},
    "gemma3": {
        "self_attn.q_norm": "attn_q_norm",
        "self_attn.k_norm": "attn_k_norm",
        "post_attention_layernorm": "post_attention_norm",
        "pre_feedforward_layernorm": "ffn_norm",
        "post_feedforward_layernorm": "post_ffw_norm",
    },
}
SHARED_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
OUTER_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


def rows_of_pairs(weights: np.ndarray, heads: int) -> np.ndarray:
    """Lay the rows of each head out as llama.cpp does: row i of the first half, row i of the second half, and so on."""
    depth = len(weights) // heads
    order = [
        head * depth + half * depth // 2 + i for head in range(heads) for i in range(depth // 2) for half in range(2)
    ]
    return weights[order]


def gguf_name(name: str, architecture: str) -> str:
    if name in OUTER_NAMES:
        return OUTER_NAMES[name]
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{(SHARED_NAMES | LAYER_NAMES[architecture])[rest.removesuffix('.weight')]}.weight"


def write_gguf(
    path: Path,
    model: PreTrainedModel,
    architecture: str,
    *,
    quantised: bool = False,
    metadata: Callable[[GGUFWriter], None] = lambda writer: None,
) -> dict[str, np.ndarray]:
    """Write ``model`` as GGUF and return its weights as they are after rounding, by their Hugging Face names."""
    config: Any = model.config
    writer = GGUFWriter(path, architecture)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if architecture == "gemma3":
        writer.add_sliding_window(config.sliding_window)
        writer.add_rope_freq_base(config.rope_parameters["full_attention"]["rope_theta"])
    else:
        writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    metadata(writer)
    tied = config.tie_word_embeddings
    rounded = {}
    for name, tensor in model.state_dict().items():
        if tied and name == "lm_head.weight":
            continue
        weights = tensor.numpy()
        if architecture == "llama" and ("q_proj" in name or "k_proj" in name):
            heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            weights = rows_of_pairs(weights, heads)
        if architecture == "gemma3" and "norm" in name:
            weights = weights + 1
        kind = GGMLQuantizationType.Q8_0 if quantised and weights.ndim == 2 else GGMLQuantizationType.F32
        writer.add_tensor(gguf_name(name, architecture), quantize(weights, kind), raw_dtype=kind)
        rounded[name] = dequantize(quantize(weights, kind), kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return rounded


def add_byte_level_tokenizer(writer: GGUFWriter, *, pre: str = "smollm", add_bos: bool = False) -> None:
    """Describe the toy BPE in the metadata, as llama.cpp's converter would."""
    tokenizer = toy_tokenizer("bpe")
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in tokenizer.all_special_tokens else 1 for token in tokens])
    writer.add_token_merges([" ".join(merge) for merge in model["merges"]])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_add_bos_token(add_bos)
    writer.add_chat_template("{% for message in messages %}{{ message['content'] }}{% endfor %}")


@pytest.fixture
def tokenizer_folder(tmp_path: Path) -> Path:
    toy_tokenizer("bpe").save_pretrained(tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


def tiny(shape: str, *, tied: bool = True) -> PreTrainedModel:
    model = tiny_model(toy_tokenizer("bpe"), shape, width=64, tied=tied)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:  # a norm of ones would hide a wrong offset
                weight.add_(torch.linspace(-0.3, 0.4, weight.numel()))
    return model


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.arange(40)[None]).logits


@pytest.mark.parametrize("shape", ["llama", "gemma3"])
@pytest.mark.parametrize("tied", [True, False])
def test_the_logits_of_a_converted_model_are_those_of_the_original(
    tmp_path: Path, tokenizer_folder: Path, shape: str, tied: bool
) -> None:
    original = tiny(shape, tied=tied)
    if shape == "gemma3":  # the pattern of layers is a constant of the family, and its first layers are sliding ones
        original.config.layer_types = ["sliding_attention"] * 2
        original = type(original)(original.config).eval()
        original.load_state_dict(tiny(shape, tied=tied).state_dict())
    write_gguf(tmp_path / "model.gguf", original, shape)
    (tmp_path / "out").mkdir()
    convert(tmp_path / "model.gguf", tmp_path / "out", tokenizer=tokenizer_folder)
    converted = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    torch.testing.assert_close(logits(converted), logits(original), rtol=0, atol=1e-5)
    assert converted.config.tie_word_embeddings is tied
    assert "quantization_config" not in converted.config.to_dict()


def test_quantised_weights_are_kept_to_the_last_bit(tmp_path: Path, tokenizer_folder: Path) -> None:
    original = tiny("llama")
    rounded = write_gguf(tmp_path / "model.gguf", original, "llama", quantised=True)
    (tmp_path / "out").mkdir()
    convert(tmp_path / "model.gguf", tmp_path / "out", tokenizer=tokenizer_folder)
    weights = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).state_dict()
    assert not np.array_equal(
        weights["model.layers.0.mlp.up_proj.weight"], original.state_dict()["model.layers.0.mlp.up_proj.weight"]
    )
    for name, expected in rounded.items():
        if "q_proj" not in name and "k_proj" not in name:  # those are in llama.cpp's order here
            assert np.array_equal(weights[name].numpy(), expected), name


def test_rows_in_pairs_come_back_in_halves() -> None:
    weights = np.arange(24, dtype=np.float32).reshape(12, 2)
    assert np.array_equal(rows_of_halves(rows_of_pairs(weights, 3), 3), weights)
    assert rows_of_halves(np.array([[0.0], [1], [2], [3]], dtype=np.float32), 1).ravel().tolist() == [0, 2, 1, 3]


def test_the_tokenizer_in_the_metadata_is_rebuilt_with_its_digit_rule(tmp_path: Path, empty_cache: Path) -> None:
    write_gguf(tmp_path / "model.gguf", tiny("llama"), "llama", metadata=add_byte_level_tokenizer)
    folder = checkpoints.fetch(f"gguf:{tmp_path / 'model.gguf'}")
    tokenizer, original = AutoTokenizer.from_pretrained(folder), toy_tokenizer("bpe")
    assert tokenizer.get_vocab() == original.get_vocab()
    assert tokenizer.eos_token == original.eos_token
    assert tokenizer.chat_template.startswith("{% for message")
    backend = tokenizer.backend_tokenizer.pre_tokenizer
    assert [piece for piece, _ in backend.pre_tokenize_str("\n\n    12")] == ["ĊĊĠĠĠĠ", "1", "2"]
    assert tokenizer("a")["input_ids"] == original.convert_tokens_to_ids(["a"])


def test_a_bos_that_the_metadata_asks_for_is_added(tmp_path: Path, empty_cache: Path) -> None:
    write_gguf(
        tmp_path / "model.gguf", tiny("llama"), "llama", metadata=lambda w: add_byte_level_tokenizer(w, add_bos=True)
    )
    loaded = checkpoints.load(f"gguf:{tmp_path / 'model.gguf'}")
    assert loaded.bos_id == toy_tokenizer("bpe").bos_token_id
    assert loaded.tokenizer("a")["input_ids"][0] == loaded.bos_id


def test_a_tokenizer_file_beside_the_gguf_is_preferred(tmp_path: Path, empty_cache: Path) -> None:
    write_gguf(tmp_path / "model.gguf", tiny("llama"), "llama")
    toy_tokenizer("bos").save_pretrained(tmp_path)
    loaded = checkpoints.load(f"gguf:{tmp_path / 'model.gguf'}")
    assert loaded.tokenbytes.fingerprint == TokenBytes.from_tokenizer(toy_tokenizer("bos")).fingerprint


def spm(writer: GGUFWriter) -> None:
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")


def scaled_rope(writer: GGUFWriter) -> None:
    add_byte_level_tokenizer(writer)
    writer.add_rope_scaling_factor(8.0)


def extra_tensor(writer: GGUFWriter) -> None:
    add_byte_level_tokenizer(writer)
    writer.add_tensor("rope_freqs.weight", np.ones(8, dtype=np.float32))


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (spm, "llama/default tokenizer .* cannot be rebuilt exactly"),
        (lambda writer: add_byte_level_tokenizer(writer, pre="gpt-9"), "gpt2/gpt-9 tokenizer"),
        (scaled_rope, "scaled rotary embedding"),
        (extra_tensor, "'rope_freqs.weight', which LlamaForCausalLM does not have"),
    ],
)
def test_what_cannot_be_converted_faithfully_is_refused_and_leaves_nothing(
    tmp_path: Path, empty_cache: Path, metadata: Callable[[GGUFWriter], None], message: str
) -> None:
    write_gguf(tmp_path / "model.gguf", tiny("llama"), "llama", metadata=metadata)
    with pytest.raises(UserError, match=message):
        checkpoints.fetch(f"gguf:{tmp_path / 'model.gguf'}")
    assert not [path for path in (empty_cache / "models").iterdir() if path.is_dir()]


def test_an_unknown_architecture_is_refused_with_the_known_ones(tmp_path: Path, empty_cache: Path) -> None:
    writer = GGUFWriter(tmp_path / "model.gguf", "mamba")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(UserError, match=r"unsupported architecture 'mamba'.*gemma3, llama"):
        checkpoints.fetch(f"gguf:{tmp_path / 'model.gguf'}")


@pytest.mark.parametrize("content", [b"", b"not a gguf file at all", b"GGUF\x03\x00\x00\x00" + b"\xff" * 40])
def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path, empty_cache: Path, content: bytes) -> None:
    (tmp_path / "model.gguf").write_bytes(content)
    with pytest.raises(UserError, match="cannot be read as GGUF"):
        checkpoints.fetch(f"gguf:{tmp_path / 'model.gguf'}")
