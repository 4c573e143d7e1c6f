"""Model input besides the text: the token before the first byte, and the context length.

Likelihood and generation follow the same rule. If the model was trained with a BOS token, every window and every prompt
begins with it; otherwise a prompt begins with its own first token. Likelihood needs a token before the first byte of a
window to score that byte: a model without BOS gets its end-of-text token, which separated documents in its training.
(This costs SmolLM2 0.003 to 0.007 bits per byte compared with windows whose first token is not scored; Gemma without
its BOS loses 0.2 and more.) The token is recorded with every score.
"""

from typing import TYPE_CHECKING

from crosstok.errors import UserError

if TYPE_CHECKING:
    from crosstok.distill.models.checkpoints import Checkpoint


def context_tokens(checkpoint: "Checkpoint") -> int | None:
    """Return the context length of the model in tokens, None if its configuration sets no limit."""
    limit = getattr(checkpoint.model.config.get_text_config(), "max_position_embeddings", None)
    return int(limit) if isinstance(limit, int) and limit > 0 else None


def first_id(checkpoint: "Checkpoint") -> int:
    """Return the token id before every window: BOS if the model was trained with one, else end-of-text.

    Raises:
        UserError: the tokenizer has neither.

    """
    if checkpoint.bos_id is not None:
        return checkpoint.bos_id
    end_of_text = checkpoint.roles.end_of_text
    if end_of_text is None:
        raise UserError(
            "Cannot score the first byte of a text: the tokenizer has neither a BOS nor an end-of-text token.",
            hint="Give the tokenizer an eos_token.",
        )
    return end_of_text
