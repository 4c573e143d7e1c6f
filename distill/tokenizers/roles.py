"""Roles of special tokens: beginning of sequence, end of text, end of turn and so on.

The four roles in a tokenizer's configuration (bos, eos, pad, unk) are not enough and can be misleading. The eos of a
chat model is usually its end of *turn*, the token between documents may be called unk (SmolLM2), and a tokenizer may
name a bos that the model was never trained with. End of text and end of turn are therefore determined separately: a
conversation rendered with the chat template shows which tokens surround a message. Without a chat template, the name of
the token decides, from a list of known model families, and the configuration is used only if no name is known.
"""

import logging
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Self

from jinja2 import TemplateError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger(__name__)

_USER, _ASSISTANT = "crosstokuserwords", "crosstokassistantwords"  # words that no template strips or changes
_END_OF_TURN = ("<|im_end|>", "<end_of_turn>", "<|eot_id|>", "<|end_of_turn|>", "<|end|>", "<|eot|>", "<turn|>")
_END_OF_TEXT = (
    "<|endoftext|>",
    "<|end_of_text|>",
    "<eos>",
    "</s>",
    "<\uff5cend\u2581of\u2581sentence\uff5c>",  # DeepSeek, with its fullwidth bars
    "<|end_of_sequence|>",
)


@dataclass(frozen=True, slots=True)
class Roles:
    """Special-token ids by role; None if the tokenizer has none."""

    bos: int | None = None
    eos: int | None = None
    pad: int | None = None
    unk: int | None = None
    end_of_text: int | None = None
    """Separates documents."""
    end_of_turn: int | None = None
    """Ends an answer in a conversation."""
    start_header: int | None = None
    """Begins a message, before the name of the speaker."""
    end_header: int | None = None
    """Separates the name of the speaker from the message."""

    @classmethod
    def from_tokenizer(cls, tokenizer: PreTrainedTokenizerBase) -> Self:
        """Determine the roles from a tokenizer's configuration, chat template and special-token names."""
        named: dict[str, int | None] = {
            role: getattr(tokenizer, f"{role}_token_id") for role in ("bos", "eos", "pad", "unk")
        }
        turn = _turn(tokenizer)
        turn.setdefault("end_of_turn", _first_known(tokenizer, _END_OF_TURN))
        end_of_text = _first_known(tokenizer, _END_OF_TEXT)
        eos = named["eos"]
        if end_of_text is None or (eos is not None and tokenizer.convert_ids_to_tokens(eos) in _END_OF_TEXT):
            end_of_text = eos
        return cls(**named, end_of_text=end_of_text, **turn)

    @property
    def stop_ids(self) -> frozenset[int]:
        """All ids that end an answer: end of text, end of turn, eos."""
        return frozenset(index for index in (self.eos, self.end_of_text, self.end_of_turn) if index is not None)

    def as_dict(self) -> dict[str, int]:
        """Return the assigned roles as a mapping from role to id."""
        return {role: index for role, index in asdict(self).items() if index is not None}


def adds_bos(tokenizer: PreTrainedTokenizerBase, bos: int | None) -> bool:
    """Return whether the tokenizer itself prepends ``bos`` to a text, which indicates training with it."""
    return bos is not None and tokenizer("a")["input_ids"][:1] == [bos]


def generation_ends(model: PreTrainedModel, size: int) -> frozenset[int]:
    """Return the ids below ``size`` that end an answer according to the model's configuration."""
    ends = getattr(model.generation_config, "eos_token_id", None)
    ids = ends if isinstance(ends, list) else [] if ends is None else [ends]
    return frozenset(index for index in ids if index < size)


def _first_known(tokenizer: PreTrainedTokenizerBase, names: Iterable[str]) -> int | None:
    ids = {token.content: index for index, token in tokenizer.added_tokens_decoder.items()}
    return next((ids[name] for name in names if name in ids), None)


def _turn(tokenizer: PreTrainedTokenizerBase) -> dict[str, int | None]:
    """Return the tokens around a message in a rendered conversation; empty if its end is not visible."""
    if not tokenizer.chat_template:
        return {}
    messages = [{"role": "user", "content": _USER}, {"role": "assistant", "content": _ASSISTANT}]
    try:
        rendered = str(tokenizer.apply_chat_template(messages, tokenize=False))
    except (TemplateError, ValueError, TypeError) as error:
        log.warning("the chat template does not render a plain conversation: %s", error)
        return {}
    parts = re.split(f"{_USER}|{_ASSISTANT}", rendered)
    # Added tokens such as Gemma's runs of newlines are text; control tokens are in brackets.
    signs = {name: index for name, index in tokenizer.get_added_vocab().items() if re.fullmatch(r"[<\[]\S+[>\]]", name)}
    if len(parts) != 3 or not signs:
        return {}
    sign = re.compile("|".join(re.escape(name) for name in sorted(signs, key=len, reverse=True)))
    end = sign.match(parts[2].lstrip())
    if end is None:
        return {}
    header = [signs[name] for name in sign.findall(parts[1].lstrip().removeprefix(end[0]))]
    return {
        "end_of_turn": signs[end[0]],
        "start_header": header[0] if header else None,
        "end_header": header[-1] if len(header) > 1 else None,
    }
