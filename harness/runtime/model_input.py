"""What a model reads besides the text itself: the token before the first byte, and how much it can read at all.

One rule for likelihood and generation. Where the model was trained with a BOS, every window and every prompt begins
with it; elsewhere a prompt begins with its own first token. Likelihood needs something in front of the first byte of
every window, or that byte could not be scored; a model without BOS gets its end-of-text token there, which is what
stood between two documents in its training. (SmolLM2 loses 0.003 to 0.007 bits per byte against windows whose first
token is not scored; Gemma without its BOS loses 0.2 and more.) The token chosen is recorded with every score.
"""

from typing import TYPE_CHECKING

from crosstok.errors import UserError

if TYPE_CHECKING:
    from crosstok.distill.models.checkpoints import Checkpoint


def context_tokens(checkpoint: "Checkpoint") -> int | None:
    """Return the largest number of tokens that the model can read, None where its configuration sets no limit."""
    limit = getattr(checkpoint.model.config.get_text_config(), "max_position_embeddings", None)
    return int(limit) if isinstance(limit, int) and limit > 0 else None


def first_id(checkpoint: "Checkpoint") -> int:
    """Return the id in front of every window: BOS where the model knows one, else its end-of-text token.

    Raises :class:`UserError` for a tokenizer with neither.
    """
    if checkpoint.bos_id is not None:
        return checkpoint.bos_id
    end_of_text = checkpoint.roles.end_of_text
    if end_of_text is None:
        raise UserError(
            "The first byte of a text cannot be scored: the tokenizer has neither a BOS nor an end-of-text token.",
            hint="Give the tokenizer an eos_token.",
        )
    return end_of_text
