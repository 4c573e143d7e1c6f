"""Model input besides the text: the token before the first byte, and the context length.

Likelihood and generation follow the same rule. If the model was trained with a BOS token, every window and every prompt
begins with it; otherwise a prompt begins with its own first token. Likelihood needs a token before the first byte of a
window to score that byte: a model without BOS gets its end-of-text token, which separated documents in its training.
(This costs SmolLM2 0.003 to 0.007 bits per byte compared with windows whose first token is not scored; Gemma without
its BOS loses 0.2 and more.) The token is recorded with every score.
"""

from typing import TYPE_CHECKING, Any

from crosstok.distill.ensemble import EnsembleForCausalLM
from crosstok.errors import UserError

if TYPE_CHECKING:
    from crosstok.distill.models.checkpoints import Checkpoint

_LIMITS = ("max_position_embeddings", "n_positions", "max_seq_len")
"""Names of the context length in configurations, text part: the usual one, that of GPT-2, that of MPT."""


def context_tokens(checkpoint: "Checkpoint") -> int | None:
    """Return the context length of the model in tokens, None if its configuration sets no limit.

    An ensemble has the shortest context of its members, whatever its folder says: folders of older versions lack the
    limits of members that do not call it ``max_position_embeddings``.
    """
    model = checkpoint.model
    members = model.members if isinstance(model, EnsembleForCausalLM) else ()
    limits = [_limit(one.config) for one in (model, *members)]
    return min((limit for limit in limits if limit is not None), default=None)


def _limit(config: Any) -> int | None:
    settings = config.get_text_config()
    limits = [getattr(settings, name, None) for name in _LIMITS]
    return next((limit for limit in limits if isinstance(limit, int) and limit > 0), None)


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
