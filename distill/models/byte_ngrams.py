"""Byte-level models with n-gram inputs: each byte also receives the input row of the longest old token that ends there.

A model transferred to bytes loses its input matrix, which holds most of the parameters of a small model. ALM (arXiv
2503.20083, section 4) keeps it on the input side: at each byte, find the longest token of the original vocabulary, of
at most 16 bytes, that ends there, and add its *frozen* original input row to the row of the byte::

    x[t] = scale * (E_bytes[b_t] + E_old[longest token that ends at t])

Special tokens receive nothing, and no token spans a special token, padding, or the border between packed windows. The
output side is unchanged. The published code stores ids plus one but compares them with special ids without the offset;
here special tokens are removed before the lookup.

No transformers architecture has such an input, so the student wraps the original model. Its folder has a
``config.json`` with a model type of its own and safetensors. ``AutoModelForCausalLM`` loads it without remote code once
this module is imported, as it does ensembles. Generation passes one byte per step, but the lookup needs the fifteen
bytes before it, so the cache has one additional layer whose "keys" are the ids read so far. Code that selects,
reorders, crops or moves rows of the cache thereby handles them too.

Tokens are found by a 64-bit polynomial hash of their bytes, for all lengths at once. Building the table verifies that
no two tokens collide; a byte string that is not a token collides with one with probability ``16 |V| / 2**64`` per byte.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer
from transformers.generation.utils import GenerationMixin
from transformers.modeling_outputs import CausalLMOutputWithPast

from crosstok.distill.models.weights import input_weight
from crosstok.distill.tokenizers.tokenbytes import TokenBytes
from crosstok.errors import UserError

BYTE_NGRAMS = "crosstok_byte_ngrams"
LONGEST = 16  # maximum bytes of a token in the table

_BASE = 0x9E3779B97F4A7C15  # odd, hence invertible modulo 2**64
_NONE = -1  # stands for a special token, padding, or the start of the text


class ByteNgramConfig(PreTrainedConfig):  # type: ignore[no-untyped-call]  # its __init_subclass__ is untyped
    """Configuration of the wrapped model, with the size of the table."""

    model_type = BYTE_NGRAMS

    inner: dict[str, Any] | None = None
    """Configuration of the inner model, as a mapping."""
    tokens: int = 0
    """Number of old tokens in the table."""
    vocab_size: int = 0
    hidden_size: int = 0
    num_hidden_layers: int = 0
    max_position_embeddings: int | None = None
    tie_word_embeddings: bool = True
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None


class NgramTable(nn.Module):
    """Finds for each byte the row of the longest old token that ends there. All of it is frozen."""

    rows: Tensor
    hashes: Tensor
    lengths: Tensor
    bytes_of: Tensor

    def __init__(self, tokens: int, width: int, vocabulary: int) -> None:
        super().__init__()
        self.register_buffer("rows", torch.zeros(tokens, width))  # [tokens, d], in the order of the hashes
        self.register_buffer("hashes", torch.zeros(tokens, dtype=torch.int64))  # ascending
        self.register_buffer("lengths", torch.zeros(tokens, dtype=torch.int64))  # in bytes
        self.register_buffer("bytes_of", torch.full((vocabulary,), _NONE))  # byte value of each new id

    @classmethod
    def of(cls, old: TokenBytes, matrix: Tensor, new: TokenBytes, rows: int) -> "NgramTable":
        """Return the table of the tokens of ``old`` with their rows in ``matrix [>= old.size, d]``.

        ``rows`` is the number of rows of the new matrix. Raises UserError if a token of ``new`` is longer than one
        byte.
        """
        longer = [data for data in new.table if data is not None and len(data) != 1]
        if longer:
            raise UserError(
                f"N-gram inputs require a byte-level tokenizer, but the new tokenizer has the token {longer[0]!r}.",
                hint="Use the tokenizer `bytes`, or leave ngrams out.",
            )
        strings = {data for data in old.table if data and len(data) <= LONGEST}
        found = sorted((_hash_of(data), len(data), old.id_of(data) or 0) for data in strings)
        if len({entry[0] for entry in found}) < len(found):
            raise ValueError("hash collision between two tokens; change _BASE")
        table = cls(len(found), matrix.shape[1], rows)
        table.rows = matrix.detach()[torch.tensor([token for _, _, token in found])].clone()
        table.hashes = torch.tensor([value for value, _, _ in found])
        table.lengths = torch.tensor([length for _, length, _ in found])
        single = [data[0] if data else _NONE for data in new.table]
        table.bytes_of = torch.tensor(single + [_NONE] * (rows - len(single)))
        return table

    def longest(self, ids: Tensor, count: int, *, unseen: Tensor | None, reach: Tensor | None) -> Tensor:
        """Return the table index for each of the last ``count`` of ``ids [b, m]``, -1 for none: ``[b, count]``.

        ``unseen [b, m]`` marks padding; ``reach [b, count]`` is the maximum number of ids, including its own, that a
        token may span.
        """
        values = self.bytes_of[ids]
        if unseen is not None:
            values = values.masked_fill(unseen, _NONE)
        values = nn.functional.pad(values[:, -(count + LONGEST - 1) :], (LONGEST - 1, 0), value=_NONE)
        spans = values.unfold(1, LONGEST, 1)[:, -count:].flip(-1)  # [b, count, LONGEST], the last byte first
        sizes = torch.arange(1, LONGEST + 1, device=ids.device)
        usable = (spans >= 0).long().cumprod(dim=-1).bool()
        if reach is not None:
            usable &= sizes <= reach[..., None]
        powers = torch.tensor(_POWERS, device=ids.device)
        hashes = ((spans + 1) * powers).cumsum(dim=-1)  # modulo 2**64
        places = torch.searchsorted(self.hashes, hashes).clamp(max=len(self.hashes) - 1)
        hit = usable & (self.hashes[places] == hashes) & (self.lengths[places] == sizes)
        best = (hit * sizes).argmax(dim=-1, keepdim=True)
        return places.masked_fill(~hit, _NONE).gather(-1, best).squeeze(-1)

    def forward(self, places: Tensor) -> Tensor:
        """Return the rows ``[b, count, d]``, zeros where there is none."""
        return self.rows[places.clamp(min=0)].masked_fill((places < 0)[..., None], 0.0)


class ByteNgramForCausalLM(PreTrainedModel, GenerationMixin):  # type: ignore[no-untyped-call]  # as above
    """A causal language model over bytes with n-gram inputs."""

    config_class = ByteNgramConfig
    config: ByteNgramConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True

    def __init__(self, config: ByteNgramConfig, inner: PreTrainedModel | None = None) -> None:
        super().__init__(config)
        if inner is None:
            settings = dict(config.inner or {})
            inner_config = AutoConfig.for_model(settings.pop("model_type"), **settings)
            inner_config.tie_word_embeddings = config.tie_word_embeddings
            inner = AutoModelForCausalLM.from_config(inner_config)  # type: ignore[no-untyped-call]  # as above
        self.inner: Any = inner
        self.ngrams = NgramTable(config.tokens, config.hidden_size, config.vocab_size)
        self.post_init()  # type: ignore[no-untyped-call]  # transformers leaves it untyped

    def _init_weights(self, module: nn.Module) -> None:
        """Do nothing: weights come from the wrapped model or from files."""

    def get_input_embeddings(self) -> Any:
        """Return the byte embeddings."""
        return self.inner.get_input_embeddings()

    def get_output_embeddings(self) -> Any:
        """Return the output head of the inner model."""
        return self.inner.get_output_embeddings()

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        """Tell ``generate`` to leave the cache to :meth:`forward`."""
        return False

    def forward(  # noqa: PLR0917  (the signature of every causal language model)
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **options: Any,
    ) -> CausalLMOutputWithPast:
        """Return the output of the inner model for the bytes and their n-grams.

        Raises ValueError for attention masks that are not ``[batch, columns]``: they do not say which bytes precede a
        column.
        """
        if attention_mask is not None and (not isinstance(attention_mask, Tensor) or attention_mask.dim() != 2):
            raise ValueError("n-gram inputs need an attention mask of shape [batch, columns]")
        if past_key_values is None and use_cache:
            past_key_values = DynamicCache(config=self.inner.config)
        ids = input_ids if past_key_values is None else self._remembered(input_ids, past_key_values)
        places = self.ngrams.longest(
            ids,
            input_ids.shape[1],
            unseen=None if attention_mask is None else attention_mask[:, -ids.shape[1] :] == 0,
            reach=None if position_ids is None else position_ids + 1,
        )
        embeddings = self.get_input_embeddings()
        scale = getattr(embeddings, "embed_scale", 1.0)  # Gemma's embedding layer scales its output
        embedded = embeddings(input_ids)
        answer: CausalLMOutputWithPast = self.inner(
            inputs_embeds=embedded + (self.ngrams(places) * scale).to(embedded.dtype),
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=past_key_values is not None,
            logits_to_keep=logits_to_keep,
            **options,
        )
        return answer

    def _remembered(self, ids: Tensor, cache: Cache) -> Tensor:
        """Return ``ids`` preceded by those in the cache, and append them to the cache's last layer."""
        wanted = self.inner.config.get_text_config().num_hidden_layers + 1
        while len(cache.layers) < wanted:
            cache.layers.append(DynamicLayer())  # type: ignore[no-untyped-call]  # transformers leaves it untyped
        column = ids[:, None, :, None]
        memory: Any = cache.layers[-1]
        history: Tensor = memory.update(column, column)[0]
        return history[:, 0, :, 0]


def with_ngrams(model: PreTrainedModel, table: NgramTable) -> ByteNgramForCausalLM:
    """Wrap ``model``, whose vocabulary is already bytes, with ``table``; the model is not copied."""
    settings = model.config.get_text_config()
    volatile = ("transformers_version", "_name_or_path")  # irrelevant to the identity of the model
    config = ByteNgramConfig(
        inner={key: value for key, value in model.config.to_dict().items() if key not in volatile},
        tokens=len(table.hashes),
        vocab_size=input_weight(model).shape[0],
        hidden_size=int(input_weight(model).shape[1]),
        num_hidden_layers=settings.num_hidden_layers,
        max_position_embeddings=getattr(settings, "max_position_embeddings", None),
        tie_word_embeddings=settings.tie_word_embeddings,
        bos_token_id=settings.bos_token_id,
        eos_token_id=settings.eos_token_id,
        pad_token_id=settings.pad_token_id,
        architectures=[ByteNgramForCausalLM.__name__],
        dtype=model.dtype,
    )
    wrapped = ByteNgramForCausalLM(config, model)
    wrapped.ngrams = table
    wrapped.generation_config = model.generation_config
    wrapped.train(model.training)
    return wrapped


def _signed(value: int) -> int:
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >= 1 << 63 else value


_POWERS = [_signed(pow(_BASE, place, 1 << 64)) for place in range(1, LONGEST + 1)]


def _hash_of(data: bytes) -> int:
    return _signed(sum((byte + 1) * power for byte, power in zip(reversed(data), _POWERS, strict=False)))


AutoConfig.register(BYTE_NGRAMS, ByteNgramConfig)
AutoModelForCausalLM.register(ByteNgramConfig, ByteNgramForCausalLM)
