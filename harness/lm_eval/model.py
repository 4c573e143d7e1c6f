"""Model class for lm-eval: an ``LM`` that uses crosstok's scorer and generator.

    crosstok lm-eval run --model crosstok --model_args source=FOLDER --tasks hellaswag

``source`` is any source that `crosstok eval` accepts: the folder of a student or an ensemble, ``hub:…``,
``wheel:NAME``. Further arguments: ``dtype`` (float32), ``batch_tokens`` (4096), ``batch_rows`` (32), ``window_bytes``
and ``stride_bytes`` of rolling likelihood (2048, 1024). The device is lm-eval's, by default the GPU if there is one.
Its batch size is ignored, since batches are packed by tokens.
"""

import logging
import sys
from collections.abc import Sequence
from typing import Any

import lm_eval.models  # noqa: F401  (lm-eval lists its own models only where no other one has come first)
import torch
from lm_eval.__main__ import cli_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model

from crosstok.distill.models import checkpoints
from crosstok.errors import UserError
from crosstok.harness.generation.generator import Generator
from crosstok.harness.likelihood.rolling import Scorer
from crosstok.harness.lm_eval.requests import Conversation, by_context, gathered, generation
from crosstok.harness.lm_eval.splits import our_data
from crosstok.sandbox.metrics import code_eval_is_sandboxed
from crosstok.tasks.task import Rolling

logger = logging.getLogger(__name__)


@register_model("crosstok")
class CrosstokLM(LM):  # type: ignore[misc]  # lm-eval ships no types
    """A crosstok model with lm-eval's interface.

    Creating one makes lm-eval's humaneval and mbpp tasks of this process run programs in crosstok's sandbox.
    """

    def __init__(
        self,
        source: str,
        *,
        dtype: str = "float32",
        device: str | None = None,
        batch_tokens: int = 4096,
        batch_rows: int = 32,
        window_bytes: int = 2048,
        stride_bytes: int = 1024,
        batch_size: object = None,
        max_batch_size: object = None,
        **unknown: object,
    ) -> None:
        super().__init__()
        if unknown:
            raise UserError(f"Unknown model arguments: {', '.join(unknown)}.", hint="See docs/lm-eval.md.")
        code_eval_is_sandboxed().__enter__()  # never exited: lm-eval reads its tasks after the model
        self.checkpoint = checkpoints.load(source, dtype=dtype, device=_available(device))
        self._scorer = Scorer(self.checkpoint, max_batch_tokens=batch_tokens)
        self._generator = Generator(self.checkpoint, max_batch_rows=batch_rows)
        self._window = window_bytes, stride_bytes

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Return (log-likelihood, greedy) of every pair. Raises ``UserError`` for a pair that the tokenizer refuses."""
        if any(isinstance(request.args[0], Conversation) for request in requests):
            raise UserError(
                "Likelihoods under a chat template are not supported: special tokens have no bytes.",
                hint="Leave out --apply_chat_template.",
            )
        asked, places = by_context([(request.args[0], request.args[1]) for request in requests])
        found: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        for answer in self._scorer.continuations(asked):
            _require(answer.refused)
            pairs = zip(answer.likelihoods.nats, answer.likelihoods.greedy, strict=True)
            for place, (nats, greedy) in zip(places[answer.index], pairs, strict=True):
                found[place] = (-nats, greedy)
        return found

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Return the log-likelihood of every text, under windows measured in bytes."""
        found = [0.0] * len(requests)
        for answer in self._scorer.rolling([Rolling(request.args[0], *self._window) for request in requests]):
            _require(answer.refused)
            found[answer.index] = -answer.nats
        return found

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Return an answer to every request; each repetition of a request has a seed of its own."""
        distinct = {id(request): request for request in requests}
        asked = [generation(request) for request in distinct.values()]
        answers = gathered(self._generator.generate(asked), [len(request.seeds) for request in asked])
        texts = {index: [answer.text for answer in found] for index, found in answers}
        waiting = {key: texts[index] for index, key in enumerate(distinct)}
        # All repetitions of a greedy request share one answer.
        return [waiting[id(r)].pop(0) if len(waiting[id(r)]) > 1 else waiting[id(r)][0] for r in requests]

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> Conversation:
        """Return the turns; crosstok renders the chat template itself, with its special tokens."""
        return Conversation(chat_history, add_generation_prompt)

    @property
    def tokenizer_name(self) -> str:
        """Return the key of the tokenizer in lm-eval's request caches."""
        return self.checkpoint.tokenbytes.fingerprint

    def chat_template(self, chat_template: bool | str = False) -> str:
        """Return the model's chat template."""
        return str(self.checkpoint.tokenizer.chat_template or "")

    def get_model_info(self) -> dict[str, Any]:
        """Return the model's entry in lm-eval's results."""
        return {"model_source": self.checkpoint.source, "model_fingerprint": self.checkpoint.fingerprint}


def _available(device: str | None) -> str:
    """Return ``device`` if it is available, else the CPU: lm-eval passes a GPU by default, even without one."""
    if device is None or (device.startswith("cuda") and not torch.cuda.is_available()):
        logger.info("No GPU is available: using the CPU instead of %s.", device)
        return "cpu"
    return device


def _require(refused: str) -> None:
    if refused:
        raise UserError(f"lm-eval needs a score for every document: {refused}")


def lm_eval_command(arguments: Sequence[str]) -> None:
    """Run lm-eval's command with ``arguments`` and the model ``crosstok``; its model ``hf`` then loads ensembles too.

    Data sets come from crosstok's data rule.
    """
    sys.argv = ["lm-eval", *arguments]
    with our_data(None):
        cli_evaluate()
