"""Our models for lm-eval: an ``LM`` that is answered by our scorer and generator.

    crosstok lm-eval run --model crosstok --model_args source=FOLDER --tasks hellaswag

``source`` is whatever `crosstok eval` takes: a student, an ensemble's folder, ``hub:…``, ``wheel:NAME``. Further
arguments: ``dtype`` (float32), ``batch_tokens`` (4096), ``batch_rows`` (32), ``window_bytes`` and ``stride_bytes`` of
rolling likelihood (2048, 1024). The device is lm-eval's: the GPU where there is one. Its batch size is not used, as
batches are packed by tokens.
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
    """A model of crosstok's behind lm-eval's interface.

    From the first one on, lm-eval's humaneval and mbpp tasks of this process judge programs in our sandbox.
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
        batch_size: object = None,  # noqa: ARG002  (lm-eval always passes both)
        max_batch_size: object = None,  # noqa: ARG002
        **unknown: object,
    ) -> None:
        super().__init__()
        if unknown:
            raise UserError(f"Unknown model arguments: {', '.join(unknown)}.", hint="See docs/lm-eval.md.")
        code_eval_is_sandboxed().__enter__()  # for good: lm-eval reads its tasks after the model
        self.checkpoint = checkpoints.load(source, dtype=dtype, device=_available(device))
        self._scorer = Scorer(self.checkpoint, max_batch_tokens=batch_tokens)
        self._generator = Generator(self.checkpoint, max_batch_rows=batch_rows)
        self._window = window_bytes, stride_bytes

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Return (log-likelihood, greedy) of every pair; a pair that cannot be written is an error, as it has none."""
        if any(isinstance(request.args[0], Conversation) for request in requests):
            raise UserError(
                "Likelihood behind a chat template is not defined in bytes.", hint="Leave out --apply_chat_template."
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
        """Return the log-likelihood of every text, under windows that are measured in bytes."""
        found = [0.0] * len(requests)
        for answer in self._scorer.rolling([Rolling(request.args[0], *self._window) for request in requests]):
            _require(answer.refused)
            found[answer.index] = -answer.nats
        return found

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Return an answer to every request; one that lm-eval repeats is drawn with another seed each time."""
        distinct = {id(request): request for request in requests}
        asked = [generation(request) for request in distinct.values()]
        answers = gathered(self._generator.generate(asked), [len(request.seeds) for request in asked])
        texts = {index: [answer.text for answer in found] for index, found in answers}
        waiting = {key: texts[index] for index, key in enumerate(distinct)}
        # A greedy answer is the same however often it is asked for.
        return [waiting[id(r)].pop(0) if len(waiting[id(r)]) > 1 else waiting[id(r)][0] for r in requests]

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> Conversation:
        """Keep the turns: our prompts are made of them, with special tokens where the template has them."""
        return Conversation(chat_history, add_generation_prompt)

    @property
    def tokenizer_name(self) -> str:
        """Identify tokenizer and template for lm-eval's request caches."""
        return self.checkpoint.tokenbytes.fingerprint

    def chat_template(self, chat_template: bool | str = False) -> str:  # noqa: ARG002  (one template per model here)
        """Return the model's chat template."""
        return str(self.checkpoint.tokenizer.chat_template or "")

    def get_model_info(self) -> dict[str, Any]:
        """Return what lm-eval writes into its results about the model."""
        return {"model_source": self.checkpoint.source, "model_fingerprint": self.checkpoint.fingerprint}


def _available(device: str | None) -> str:
    """Return ``device``, or the CPU: lm-eval asks for a GPU wherever nothing else was chosen, as its own models do."""
    if device is None or (device.startswith("cuda") and not torch.cuda.is_available()):
        logger.info("No GPU here: %s is not used.", device)
        return "cpu"
    return device


def _require(refused: str) -> None:
    if refused:
        raise UserError(f"lm-eval needs a score for every document: {refused}")


def lm_eval_command(arguments: Sequence[str]) -> None:
    """Run lm-eval's own command with ``arguments``: ``--model crosstok`` is known, ``hf`` loads ensembles.

    Data sets come from our data rule there too.
    """
    sys.argv = ["lm-eval", *arguments]
    with our_data(None):
        cli_evaluate()
