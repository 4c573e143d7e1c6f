"""From a request to the ids that a model reads: plain text as content, a conversation through the chat template.

Neither is ever parsed for special tokens that a benchmark's text may spell (see ``crosstok.distill.tokenizers.chat``).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from crosstok.distill.tokenizers.chat import chat_parts, encode_parts
from crosstok.harness.runtime.model_input import first_id
from crosstok.tasks.task import Generate

if TYPE_CHECKING:
    from crosstok.distill.models.checkpoints import Checkpoint


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the model reads: ``text`` is shown to people, ``ids`` go in."""

    text: str
    ids: list[int]


def encode_prompt(checkpoint: "Checkpoint", request: Generate) -> Prompt:
    """Return the prompt of ``request``: a chat where it has messages, else its plain text.

    Raises ``RoundTripError`` for text that the tokenizer cannot write, :class:`UserError` where there is no usable chat
    template.
    """
    if request.messages is None:
        ids = [] if checkpoint.bos_id is None else [checkpoint.bos_id]
        ids.extend(checkpoint.tokenbytes.encode(request.prompt).ids.tolist())
        return Prompt(request.prompt, ids or [first_id(checkpoint)])
    parts = chat_parts(checkpoint.tokenizer, request.messages)
    ids = encode_parts(checkpoint.tokenizer, checkpoint.tokenbytes, parts)
    if checkpoint.bos_id is not None and ids[:1] != [checkpoint.bos_id]:
        ids.insert(0, checkpoint.bos_id)
    return Prompt("".join(text for _, text in parts), ids)
