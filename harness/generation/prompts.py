"""Encoding of requests as prompts: plain text directly, conversations through the chat template.

Text of a benchmark is never parsed for special tokens (see ``crosstok.distill.tokenizers.chat``).
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
    """Prompt of a request: ``text`` for display, ``ids`` as input of the model."""

    text: str
    ids: list[int]


def encode_prompt(checkpoint: "Checkpoint", request: Generate) -> Prompt:
    """Return the prompt of ``request``: its messages through the chat template, if any, otherwise its plain text.

    Raises ``RoundTripError`` for text that the tokenizer cannot encode losslessly, :class:`UserError` if the model has
    no usable chat template.
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
