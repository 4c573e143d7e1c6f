"""A byte-level model that reads n-grams: to every byte it adds the row of the longest old token that ends there.

A model moved to bytes loses its input matrix, most of its parameters at this size. ALM (arXiv 2503.20083, section 4)
keeps it on the input side: at each byte, find the longest token of the original vocabulary, of at most 16 bytes, that
ends there, and add its *frozen* original input row to the row of the byte::

    x[t] = scale * (E_bytes[b_t] + E_old[longest token that ends at t])

Nothing is added at special tokens, no token reaches across one, across padding, or into another window of a packed row.
The output side gets no such help. Published code stores ids plus one and compares them with special ids as they are;
here specials are told apart before anything is looked up.

No architecture of the library has such an input, so a student is a wrapper around the model that it was: a folder with
a ``config.json`` of its own kind and safetensors, loaded by ``AutoModelForCausalLM`` once this module is imported, as
ensembles are, without remote code. While text is generated a step sees one byte, and the fifteen before it are needed
too: the cache has one more layer whose "keys" are the ids read so far. Whoever selects, reorders, crops or moves the
rows of a cache then moves them along without knowing of them.

Tokens are found by a 64-bit polynomial hash of their bytes, all lengths at once. That no two share one is checked when
the table is made; a string that is no token hits one with a probability of ``16 |V| / 2**64`` per byte.
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
LONGEST = 16  # bytes of a token that is looked up

_BASE = 0x9E3779B97F4A7C15  # odd, so that no power of it is lost modulo 2**64
_NONE = -1  # instead of a byte: a special token, padding, or nothing yet


class ByteNgramConfig(PreTrainedConfig):  # type: ignore[no-untyped-call]  # its __init_subclass__ is untyped
    """The configuration of the wrapped model, and the size of the table."""

    model_type = BYTE_NGRAMS

    inner: dict[str, Any] | None = None
    """The configuration of the model inside, as a mapping."""
    tokens: int = 0
    """Old tokens in the table."""
    vocab_size: int = 0
    hidden_size: int = 0
    num_hidden_layers: int = 0
    max_position_embeddings: int | None = None
    tie_word_embeddings: bool = True
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None


class NgramTable(nn.Module):
    """Finds, for each byte, the row of the longest old token that ends there. Everything in it is frozen."""

    rows: Tensor
    hashes: Tensor
    lengths: Tensor
    bytes_of: Tensor

    def __init__(self, tokens: int, width: int, vocabulary: int) -> None:
        super().__init__()
        self.register_buffer("rows", torch.zeros(tokens, width))  # [tokens, d], in the order of the hashes
        self.register_buffer("hashes", torch.zeros(tokens, dtype=torch.int64))  # ascending
        self.register_buffer("lengths", torch.zeros(tokens, dtype=torch.int64))  # in bytes
        self.register_buffer("bytes_of", torch.full((vocabulary,), _NONE))  # byte of each new id

    @classmethod
    def of(cls, old: TokenBytes, matrix: Tensor, new: TokenBytes, rows: int) -> "NgramTable":
        """Return the table of the tokens of ``old`` with their rows in ``matrix [>= old.size, d]``.

        ``rows`` is the height of the new matrix. Raises UserError where a token of ``new`` is not one byte.
        """
        longer = [data for data in new.table if data is not None and len(data) != 1]
        if longer:
            raise UserError(
                f"N-gram inputs are for tokens of one byte, and the new tokenizer has {longer[0]!r}.",
                hint="Use the tokenizer `bytes`, or leave ngrams out.",
            )
        strings = {data for data in old.table if data and len(data) <= LONGEST}
        found = sorted((_hash_of(data), len(data), old.id_of(data) or 0) for data in strings)
        if len({entry[0] for entry in found}) < len(found):
            raise ValueError("two tokens have one hash; change the base")
        table = cls(len(found), matrix.shape[1], rows)
        table.rows = matrix.detach()[torch.tensor([token for _, _, token in found])].clone()
        table.hashes = torch.tensor([value for value, _, _ in found])
        table.lengths = torch.tensor([length for _, length, _ in found])
        single = [data[0] if data else _NONE for data in new.table]
        table.bytes_of = torch.tensor(single + [_NONE] * (rows - len(single)))
        return table

    def longest(self, ids: Tensor, count: int, *, unseen: Tensor | None, reach: Tensor | None) -> Tensor:
        """Return the places of the rows for the last ``count`` of ``ids [b, m]``, -1 for none: ``[b, count]``.

        ``unseen [b, m]`` marks padding; ``reach [b, count]`` says how many ids, its own included, a token may span.
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
        """Return the rows ``[b, count, d]``, zeros for none."""
        return self.rows[places.clamp(min=0)].masked_fill((places < 0)[..., None], 0.0)


class ByteNgramForCausalLM(PreTrainedModel, GenerationMixin):  # type: ignore[no-untyped-call]  # as above
    """A causal language model over bytes with the n-gram table in front."""

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
        """Leave everything as it is: weights come from the wrapped model or from files."""

    def get_input_embeddings(self) -> Any:
        """Return the embeddings of bytes."""
        return self.inner.get_input_embeddings()

    def get_output_embeddings(self) -> Any:
        """Return the output head of the model inside."""
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
        """Return what the model inside returns for the bytes and their n-grams.

        Raises ValueError for attention masks other than ``[batch, columns]``: what a column may see then says no more
        which bytes stand before it.
        """
        if attention_mask is not None and (not isinstance(attention_mask, Tensor) or attention_mask.dim() != 2):
            raise ValueError("n-gram inputs need a mask of rows and columns")
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
        scale = getattr(embeddings, "embed_scale", 1.0)  # Gemma's, which its embedding layer applies by itself
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
        """Return ``ids`` with those that the cache has seen in front, and store them in its last layer."""
        wanted = self.inner.config.get_text_config().num_hidden_layers + 1
        while len(cache.layers) < wanted:
            cache.layers.append(DynamicLayer())  # type: ignore[no-untyped-call]  # transformers leaves it untyped
        column = ids[:, None, :, None]
        memory: Any = cache.layers[-1]
        history: Tensor = memory.update(column, column)[0]
        return history[:, 0, :, 0]


def with_ngrams(model: PreTrainedModel, table: NgramTable) -> ByteNgramForCausalLM:
    """Return ``model``, whose vocabulary is bytes already, with ``table`` in front; it is not copied."""
    settings = model.config.get_text_config()
    volatile = ("transformers_version", "_name_or_path")  # nothing that decides the model
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
