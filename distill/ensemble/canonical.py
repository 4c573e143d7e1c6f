"""Model-independent tokenizer and chat format of an ensemble whose members keep their own tokens.

The members may have different special tokens, turn orders and headers. The ensemble's own tokenizer therefore has the
ordinary tokens of its first member, with the same ids, and six control tokens of its own, for the start of a text, the
speakers, the end of a turn, and padding. Its chat template writes nothing else. From such ids, each member's prompt is
rendered with its own template (``crosstok.distill.ensemble.own_tokens``).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from tokenizers import AddedToken, Tokenizer, models, processors
from transformers import PreTrainedTokenizerFast

from crosstok.distill.tokenizers.chat import Message
from crosstok.distill.tokenizers.special_tokens import adopt_specials
from crosstok.distill.tokenizers.tokenbytes import TokenBytes
from crosstok.errors import UserError

BEGIN, END, PAD = "<|ensemble_begin|>", "<|ensemble_end|>", "<|ensemble_pad|>"
SPEAKERS = {role: f"<|ensemble_{role}|>" for role in ("system", "user", "assistant")}
_TEMPLATE = (
    f"{BEGIN}{{% for message in messages %}}"
    "{{ '<|ensemble_' + message['role'] + '|>' }}{{ message['content'] }}"
    f"{END}{{% endfor %}}{{% if add_generation_prompt %}}{SPEAKERS['assistant']}{{% endif %}}"
)


def ensemble_tokenizer(first: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """Return the tokenizer of an ensemble, with ordinary tokens of its first member and its own control tokens."""
    control_tokens = [PAD, BEGIN, END, *SPEAKERS.values()]
    backend = Tokenizer(models.BPE(vocab={"a": 0}, merges=[]))
    backend.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in control_tokens])
    backend.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A", special_tokens=[(BEGIN, backend.token_to_id(BEGIN))]
    )
    wearer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # transformers leaves it untyped
        tokenizer_object=backend, bos_token=BEGIN, eos_token=END, pad_token=PAD, chat_template=_TEMPLATE
    )
    adopted = adopt_specials(first, wearer).tokenizer
    adopted.model_max_length = first.model_max_length
    return adopted


@dataclass(frozen=True, slots=True)
class Turns:
    """The content of one row: the finished messages of a conversation, and the ordinary tokens after them."""

    messages: tuple[Message, ...] | None
    """None for plain text."""
    prompt: tuple[int, ...]
    """The ids that stand for ``messages`` and for the token that opens the answer."""
    text: tuple[int, ...]
    """The plain text, or the assistant's answer so far."""


class ControlTokens:
    """Parses the ids of an ensemble."""

    def __init__(self, tokenbytes: TokenBytes) -> None:
        ids = {name: token for token, name in tokenbytes.specials.items()}
        self._tokenbytes = tokenbytes
        self.begin, self.end, self.pad = ids[BEGIN], ids[END], ids[PAD]
        self._speakers = {ids[token]: role for role, token in SPEAKERS.items()}

    def read(self, ids: Sequence[int]) -> Turns:
        """Parse ``ids``; padding and the start token are ignored.

        Raises UserError for a conversation that does not end with an open assistant turn.
        """
        opened = [place for place, token in enumerate(ids) if token in self._speakers]
        if not opened:
            return Turns(None, (), tuple(token for token in ids if token not in (self.begin, self.pad)))
        last = opened[-1]
        if self._speakers[ids[last]] != "assistant" or self.end in ids[last:]:
            raise UserError(
                "A conversation for an ensemble must end with an open assistant turn.",
                hint="Render it with add_generation_prompt=True.",
            )
        messages = []
        for place, following in pairwise(opened):
            content = self._tokenbytes.decode(ids[place + 1 : following]).decode(errors="replace")
            messages.append({"role": self._speakers[ids[place]], "content": content})
        return Turns(tuple(messages), tuple(ids[: last + 1]), tuple(ids[last + 1 :]))
