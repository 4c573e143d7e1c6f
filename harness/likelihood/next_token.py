"""Next-token log-probabilities of one model: in fp32, without padded vocabulary rows, in bounded memory.

The output head is applied only to the positions that are scored, in chunks, so a pass needs the same memory for a
vocabulary of 32,000 and of 262,000. This requires access to the hidden states and the head separately, and some
architectures do more than a matrix product between the two (Gemma 2 caps its logits, Cohere scales them). The shortcut
is therefore compared with the model's own logits first; a model that differs (an ensemble has no head at all) is scored
from its full logits, with fewer tokens per pass.
"""

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

if TYPE_CHECKING:
    from crosstok.distill.models.checkpoints import Checkpoint

logger = logging.getLogger(__name__)

LOGIT_ELEMENTS = 1 << 24  # logits of one chunk: 64 MB in fp32
_IN_CACHE = 1 << 20  # logits that fit into the cache of a CPU: 4 MB in fp32


class Scored(NamedTuple):
    """Scores of given next tokens, ``[n]`` each, on the CPU."""

    nats: torch.Tensor
    """Negative log-probability in nats, fp32."""
    greedy: torch.Tensor
    """Whether the token is the most probable one."""


class NextToken:
    """Function from token sequences to next-token log-probabilities, for one model."""

    def __init__(self, checkpoint: "Checkpoint") -> None:
        self.model = checkpoint.model
        self._size = checkpoint.valid_rows
        self._head = self._find_head()
        if self._head is None:
            logger.info("%s is scored from its full logits.", type(self.model).__name__)

    @property
    def has_head(self) -> bool:
        """Whether hidden states and output head can be computed separately."""
        return self._head is not None

    def affordable(self, tokens: int) -> int:
        """Return how many of ``tokens`` fit into one pass: all, unless the pass computes full logits."""
        # Full logits of a pass exist at once: allow at most eight chunks of them.
        return tokens if self.has_head else min(tokens, max(1, 8 * LOGIT_ELEMENTS // self._size))

    def states(self, ids: torch.Tensor, **inputs: Any) -> torch.Tensor:
        """Return hidden states ``[rows, columns, width]`` for ``ids``; ``inputs`` are further arguments of the model.

        Without a separate head these are the logits.
        """
        arguments = {"input_ids": ids.to(self.model.device), "use_cache": False, **inputs}
        if self._head is None:
            return self.model(**arguments).logits  # type: ignore[no-any-return]  # transformers' outputs are Any
        return self.model.base_model(**arguments).last_hidden_state  # type: ignore[no-any-return]

    def score(self, states: torch.Tensor, targets: torch.Tensor) -> Scored:
        """Return scores of the next tokens ``targets`` ``[n]`` after ``states`` ``[n, width]``."""
        # The matrix product is fastest over many rows. The rest passes over the logits five times; on a CPU it is twice
        # as fast over as many rows as fit into the cache.
        at_once = _IN_CACHE if states.device.type == "cpu" else LOGIT_ELEMENTS
        parts = []
        for some, wanted in self._chunks(states, targets.to(states.device), LOGIT_ELEMENTS):
            for few, own in self._chunks(self._raw(some), wanted, at_once):
                logits = few.float()
                chosen = logits.gather(1, own[:, None])[:, 0]
                nats = (logits.logsumexp(dim=-1) - chosen).cpu()
                parts.append(Scored(nats, (logits.argmax(dim=-1) == own).cpu()))
        return Scored(torch.cat([part.nats for part in parts]), torch.cat([part.greedy for part in parts]))

    def log_probabilities(self, states: torch.Tensor) -> torch.Tensor:
        """Return log-probabilities ``[n, V]`` of all next tokens on the CPU; the caller must bound ``n``."""
        return self._logits(states).log_softmax(dim=-1).cpu()

    def log_mass(self, states: torch.Tensor, ids: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return, for each of ``states`` ``[n, width]``, the log-probability of any of ``ids[n]`` as next token."""
        found = []
        for state, wanted in zip(states, ids, strict=True):
            logits = self._logits(state[None])[0]
            found.append(logits[wanted.to(logits.device)].logsumexp(dim=0) - logits.logsumexp(dim=0))
        return torch.stack(found).cpu()

    def _chunks(
        self, values: torch.Tensor, targets: torch.Tensor, elements: int
    ) -> "zip[tuple[torch.Tensor, torch.Tensor]]":
        """Split both into chunks of at most ``elements`` logits."""
        chunk = max(1, elements // self._size)
        return zip(torch.split(values, chunk), torch.split(targets, chunk), strict=True)

    def _raw(self, states: torch.Tensor) -> torch.Tensor:
        """Return logits in the dtype of the weights."""
        values = states if self._head is None else self._head(states)
        return values[:, : self._size]

    def _logits(self, states: torch.Tensor) -> torch.Tensor:
        return self._raw(states).float()

    @torch.inference_mode()
    def _find_head(self) -> Callable[[torch.Tensor], torch.Tensor] | None:
        """Return the function from hidden states to logits, or None if it does not match the model's own logits."""
        model = self.model
        head = model.get_output_embeddings()  # type: ignore[no-untyped-call]  # transformers leaves it untyped
        if head is None or model.base_model is model:
            return None
        cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)

        def logits(states: torch.Tensor) -> torch.Tensor:
            values: torch.Tensor = head(states)
            return values if cap is None else torch.tanh(values / cap) * cap

        probe = torch.arange(min(8, self._size), device=model.device)[None]
        states = model.base_model(input_ids=probe, use_cache=False).last_hidden_state
        wanted = model(input_ids=probe, use_cache=False).logits
        return logits if torch.allclose(logits(states), wanted, rtol=1e-4, atol=1e-4) else None
