"""Conversion of GGUF files to Hugging Face folders.

Weights are dequantised by the ``gguf`` package and renamed by a table per architecture. They are stored in float32, the
only common type that represents every product of a half-precision scale and a small integer exactly. Three details that
are easy to get wrong, each covered by a test:

* llama.cpp permutes the query and key rows of Llama models (pairs instead of halves of the rotary dimensions). The
  original order is restored.
* A Gemma norm multiplies by ``1 + w``, and GGUF stores ``1 + w``, so 1 is subtracted.
* The metadata contain only the name of the pre-tokenizer, which must be rebuilt from it. SmolLM splits off every digit
  before it applies the GPT-2 pattern; without this rule, indented numbers get other ids.

Unknown architectures, tensors, pre-tokenizers and scaled rotary embeddings are refused. A SentencePiece vocabulary in a
GGUF lacks the order of its merges, so the model's ``tokenizer.json`` is required.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import Gemma3TextConfig, GenerationConfig, LlamaConfig, PreTrainedConfig, PreTrainedTokenizerFast

from crosstok.distill.tokenizers.tokenizer_building import fast_tokenizer
from crosstok.errors import UserError

CONVERTER_VERSION = 1
"""Raised when the same GGUF would give another folder; part of the fingerprint of converted models."""

_CONTROL, _USER_DEFINED = 3, 4  # token types of the GGUF format
_ROLES = {"bos": "bos", "eos": "eos", "unknown": "unk", "padding": "pad"}


@dataclass(frozen=True, slots=True)
class _Architecture:
    """Mapping of one ``general.architecture`` to a transformers class."""

    model_class: str
    layer_tensors: Mapping[str, str]
    permuted: frozenset[str] = frozenset()
    """Projections whose rows llama.cpp reorders for its rotary embedding."""
    norm_offset: float = 0.0
    """What the GGUF adds to every norm weight."""


_ATTENTION_AND_MLP = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_ARCHITECTURES = {
    "llama": _Architecture(
        "LlamaForCausalLM",
        _ATTENTION_AND_MLP | {"ffn_norm": "post_attention_layernorm"},
        permuted=frozenset({"attn_q", "attn_k"}),
    ),
    "gemma3": _Architecture(
        "Gemma3ForCausalLM",
        _ATTENTION_AND_MLP
        | {
            "attn_q_norm": "self_attn.q_norm",
            "attn_k_norm": "self_attn.k_norm",
            "post_attention_norm": "post_attention_layernorm",
            "ffn_norm": "pre_feedforward_layernorm",
            "post_ffw_norm": "post_feedforward_layernorm",
        },
        norm_offset=1.0,
    ),
}
_OUTER_TENSORS = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_PRE_TOKENIZERS = {
    "gpt-2": (pre_tokenizers.ByteLevel(add_prefix_space=False),),
    "smollm": (pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)),
}


def convert(gguf: Path, folder: Path, *, tokenizer: Path | None = None) -> None:
    """Write the model in ``gguf`` to ``folder`` as safetensors, config, generation config and tokenizer.

    The tokenizer is copied from the folder ``tokenizer`` if one is given, otherwise from a ``tokenizer.json`` next to
    the file, otherwise built from the metadata. Raises UserError if the file cannot be converted exactly.
    """
    try:
        reader = GGUFReader(gguf)
    except (OSError, ValueError, IndexError, KeyError, OverflowError) as error:  # raised for broken files
        raise UserError(f"{gguf} cannot be read as GGUF: {error}.", hint="Check the path and the file.") from error
    metadata = _Metadata(reader, gguf)
    architecture = _ARCHITECTURES.get(metadata.architecture)
    if architecture is None:
        raise UserError(
            f"{gguf} holds a model of the unsupported architecture {metadata.architecture!r}.",
            hint=f"Supported: {', '.join(sorted(_ARCHITECTURES))}. Use the model's Hugging Face folder instead.",
        )
    tensors = _tensors(reader, metadata, architecture)
    config = _config(metadata, rows=tensors["model.embed_tokens.weight"].shape[0], tied="lm_head.weight" not in tensors)
    config.architectures = [architecture.model_class]
    if tokenizer is None and (gguf.parent / "tokenizer.json").is_file():
        tokenizer = gguf.parent
    if tokenizer is None:
        build_tokenizer(metadata).save_pretrained(folder)
    else:
        for file in tokenizer.glob("*token*.json"):
            shutil.copyfile(file, folder / file.name)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(folder)
    roles = {f"{role}_token_id": metadata.role_id(name) for name, role in _ROLES.items() if role != "unk"}
    generation = GenerationConfig(**roles)  # type: ignore[no-untyped-call]  # transformers leaves it untyped
    generation.save_pretrained(folder)


class _Metadata:
    """Key-value metadata of a GGUF file."""

    def __init__(self, reader: GGUFReader, path: Path) -> None:
        self._fields = reader.fields
        self.path = path
        self.architecture: str = self("general.architecture")

    def __call__(self, key: str, default: Any = None) -> Any:
        """Return the value of ``key``, or ``default``."""
        field = self._fields.get(key)
        return default if field is None else field.contents()

    def model(self, key: str, default: Any = None) -> Any:
        """Return a value of the model section; a missing one without default is an error."""
        value = self(f"{self.architecture}.{key}", default)
        if value is None:
            raise UserError(f"{self.path} lacks {self.architecture}.{key}.", hint="Use a complete GGUF file.")
        return value

    def role_id(self, name: str) -> int | None:
        """Return the id of a special token: ``bos``, ``eos``, ``unknown`` or ``padding``."""
        value = self(f"tokenizer.ggml.{name}_token_id")
        return None if value is None else int(value)

    def has(self, prefix: str) -> bool:
        """Return whether any key starts with ``prefix``."""
        return any(key.startswith(prefix) for key in self._fields)


def _config(metadata: _Metadata, *, rows: int, tied: bool) -> PreTrainedConfig:
    if metadata.has(f"{metadata.architecture}.rope.scaling"):
        raise UserError(f"{metadata.path} has a scaled rotary embedding, which cannot be converted.")
    heads = metadata.model("attention.head_count")
    shared: dict[str, Any] = {
        "vocab_size": rows,
        "hidden_size": metadata.model("embedding_length"),
        "intermediate_size": metadata.model("feed_forward_length"),
        "num_hidden_layers": metadata.model("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": metadata.model("attention.head_count_kv", heads),
        "head_dim": metadata.model("attention.key_length", metadata.model("embedding_length") // heads),
        "max_position_embeddings": metadata.model("context_length"),
        # GGUF stores a float32; the original decimal number is more readable and rounds to the same float32.
        "rms_norm_eps": float(f"{metadata.model('attention.layer_norm_rms_epsilon'):.6g}"),
        "tie_word_embeddings": tied,
        "dtype": "float32",
        **{f"{role}_token_id": metadata.role_id(name) for name, role in _ROLES.items() if role != "unk"},
    }
    theta = float(metadata.model("rope.freq_base", 10_000.0))
    if metadata.architecture == "llama":
        return LlamaConfig(rope_parameters={"rope_type": "default", "rope_theta": theta}, **shared)
    return Gemma3TextConfig(
        sliding_window=metadata.model("attention.sliding_window"),
        query_pre_attn_scalar=shared["head_dim"],
        rope_parameters={
            # The base of the sliding layers is a constant of Gemma 3 that GGUF does not contain.
            "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
            "full_attention": {"rope_type": "default", "rope_theta": theta},
        },
        **shared,
    )


def _tensors(reader: GGUFReader, metadata: _Metadata, architecture: _Architecture) -> dict[str, NDArray[np.float32]]:
    heads = metadata.model("attention.head_count")
    heads_of = {"attn_q": heads, "attn_k": metadata.model("attention.head_count_kv", heads)}
    tensors: dict[str, NDArray[np.float32]] = {}
    for tensor in reader.tensors:
        part, name = _target(tensor.name, architecture, metadata.path)
        weights = dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False)
        if part in architecture.permuted:
            weights = rows_of_halves(weights, heads_of[part])
        if part.endswith("_norm"):
            weights = weights - np.float32(architecture.norm_offset)
        tensors[name] = np.ascontiguousarray(weights)
    return tensors


def _target(name: str, architecture: _Architecture, path: Path) -> tuple[str, str]:
    """Return the short GGUF name of a tensor and its name in the Hugging Face model."""
    if name in _OUTER_TENSORS:
        return name.removesuffix(".weight"), _OUTER_TENSORS[name]
    match name.split("."):
        case ["blk", layer, part, "weight"] if part in architecture.layer_tensors:
            return part, f"model.layers.{layer}.{architecture.layer_tensors[part]}.weight"
    raise UserError(f"{path} holds the tensor {name!r}, which {architecture.model_class} does not have.")


def rows_of_halves(weights: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Return ``[heads * d, hidden]`` rows with each head's rotary dimensions in halves, given them in pairs.

    A rotary pair is the rows (2i, 2i + 1) in llama.cpp and the rows (i, i + d/2) in transformers.
    """
    pairs = weights.reshape(heads, weights.shape[0] // heads // 2, 2, *weights.shape[1:])
    return pairs.swapaxes(1, 2).reshape(weights.shape)


def build_tokenizer(metadata: _Metadata) -> PreTrainedTokenizerFast:
    """Build the byte-level BPE tokenizer that the metadata describes, with its roles and chat template."""
    kind, pre = metadata("tokenizer.ggml.model"), metadata("tokenizer.ggml.pre", "gpt-2")
    if kind != "gpt2" or pre not in _PRE_TOKENIZERS:
        raise UserError(
            f"The {kind}/{pre} tokenizer inside {metadata.path} cannot be rebuilt exactly.",
            hint="Put the model's own tokenizer.json (and tokenizer_config.json) into the same folder.",
        )
    tokens: list[str] = metadata("tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in metadata("tokenizer.ggml.merges")]
    backend = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.Sequence(list(_PRE_TOKENIZERS[pre]))
    backend.decoder = decoders.ByteLevel()
    kinds = metadata("tokenizer.ggml.token_type")
    for type_, add in ((_CONTROL, backend.add_special_tokens), (_USER_DEFINED, backend.add_tokens)):
        chosen = [token for token, kind in zip(tokens, kinds, strict=True) if kind == type_]
        add([AddedToken(token, normalized=False, special=type_ == _CONTROL) for token in chosen])
    roles = {role: tokens[found] for name, role in _ROLES.items() if (found := metadata.role_id(name)) is not None}
    if metadata("tokenizer.ggml.add_bos_token", default=False):
        bos = roles["bos"]
        backend.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, backend.token_to_id(bos))]
        )
    tokenizer = fast_tokenizer(backend, roles, longest=metadata.model("context_length"))
    tokenizer.chat_template = metadata("tokenizer.chat_template")
    return tokenizer
