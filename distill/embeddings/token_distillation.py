"""Token Distillation: new rows are fitted so that the model continues after a new token as after its old pieces.

Dobler et al., arXiv 2505.20133. Text in which a new token w occurs is read twice by the frozen source: in old tokens,
``.. p1 p2 p3 next ..``, and with the pieces replaced by one vector, ``.. e_w next ..``. From w on, both readings have
corresponding positions, and ``e_w`` is trained until the hidden states agree::

    L(e_w) = mean over the last piece and the tokens after it of  ||h(.. e_w ..) - h(.. p1 p2 p3 ..)||^2

Only input rows are trained. All rows start from FVT; tokens that do not occur in the text keep it.

Difference from the paper: rows of an untied output matrix are not trained on next-token loss, which would teach the
model that w always follows. They are fitted to the probability that the model itself assigns to the pieces, ``p = prod
p(p_i | ..)``: the sigmoid of the new logit minus the log-sum-exp over the old vocabulary is trained by binary
cross-entropy, without a pass through the network. A tied matrix uses the input rule only. Occurrences that do not begin
and end at boundaries of source tokens are skipped, as the two readings would differ in text. The same seed, text and
machine give the same rows.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from crosstok.distill.embeddings.fvt import FVT
from crosstok.distill.embeddings.initialiser import Kind, Rows, SourceModel
from crosstok.distill.models.output_head import Head, head_of
from crosstok.distill.tokenizers.tokenbytes import Encoding, TokenBytes


@dataclass(frozen=True)
class _Snippet:
    """A span of text in source tokens; ``ids[first:stop]`` are the pieces of the new token ``token``."""

    token: int
    ids: list[int]
    first: int
    stop: int


class TokenDistillation(FVT):
    """FVT followed by a fit of hidden states on text."""

    name: ClassVar[str] = "token_distillation"

    corpus: str = "stdlib"
    """Text source; its training split is read."""
    steps: int = Field(default=100, ge=1)
    """Number of optimizer steps."""
    batch: int = Field(default=16, ge=1)
    """Snippets per step."""
    context: int = Field(default=25, ge=1)
    """Source tokens on each side of the new token."""
    per_token: int = Field(default=25, ge=1)
    """Maximum number of snippets per new token."""
    layer: int = Field(default=-1)
    """Layer whose hidden states are compared: 0 is the embeddings, -1 the last layer."""
    lr: float = Field(default=1e-3, gt=0)
    """Peak learning rate of Adam; it decays linearly to 0."""
    seed: int = Field(default=0, ge=0)
    """Seed of the order of snippets."""

    @property
    def text_source(self) -> str:
        """The corpus."""
        return self.corpus

    def refine(self, rows: Rows, source_model: SourceModel, source: TokenBytes, target: TokenBytes) -> Rows:
        """Return ``rows`` with the new tokens of the text fitted; takes hours for a large vocabulary."""
        new = {token for token, origin in enumerate(rows.origins) if origin in {"mean", "bytes", "fallback"}}
        found = self._snippets(source_model, source, target, new - set(target.special_ids))
        if not found:
            return rows
        places = {token: place for place, token in enumerate(sorted({snippet.token for snippet in found}))}
        fitted = _Fit(self, source_model, rows, places)
        before = fitted.error(found[: 4 * self.batch])
        for step, snippets in enumerate(self._batches(found)):
            fitted.step(snippets, rate=1 - step / self.steps)
        tokens = torch.tensor(sorted(places))
        matrices = {kind: matrix.clone() for kind, matrix in rows.matrices.items()}
        for kind, learned in fitted.learned.items():
            matrices[kind][tokens] = learned.detach().to(matrices[kind].dtype).cpu()
        metrics = {"tokens_fitted": len(places), "tokens_without_text": len(new) - len(places), "snippets": len(found)}
        after = fitted.error(found[: 4 * self.batch])
        origins = [("approximated" if token in places else origin) for token, origin in enumerate(rows.origins)]
        return Rows(matrices, tuple(origins), {**metrics, "error_before": before, "error_after": after})

    def _batches(self, snippets: list[_Snippet]) -> Iterator[list[_Snippet]]:
        """Yield one batch per step, cycling through all snippets."""
        for step in range(self.steps):
            yield [snippets[place % len(snippets)] for place in range(step * self.batch, (step + 1) * self.batch)]

    def _snippets(
        self, source_model: SourceModel, source: TokenBytes, target: TokenBytes, wanted: set[int]
    ) -> list[_Snippet]:
        """Return shuffled snippets: the first of each token before the second of each token, and so on.

        A budget that is too small for all snippets thereby covers as many tokens as possible.
        """
        found: list[list[_Snippet]] = [[] for _ in range(self.per_token)]
        counts: Counter[int] = Counter()
        generator = np.random.default_rng(self.seed)
        for place in generator.permutation(len(source_model.texts.documents)):
            text = source_model.texts.documents[place].text
            old, new = source.try_encode_many([text])[0], target.try_encode_many([text])[0]
            if not isinstance(old, Encoding) or not isinstance(new, Encoding):
                continue
            ends = {int(end): index + 1 for index, end in enumerate(old.ends)} | {0: 0}
            start = 0
            for token, end in zip(new.ids.tolist(), new.ends.tolist(), strict=True):
                first, stop, start = ends.get(start), ends.get(end), end
                if token in wanted and first is not None and stop is not None and counts[token] < self.per_token:
                    left, right = max(0, first - self.context), stop + self.context
                    snippet = _Snippet(token, old.ids[left:right].tolist(), first - left, stop - left)
                    found[counts[token]].append(snippet)
                    counts[token] += 1
            if counts.total() >= self.steps * self.batch and len(counts) == len(wanted):
                break
        shuffled = [layer[place] for layer in found for place in generator.permutation(len(layer))]
        return shuffled[: self.steps * self.batch]


class _Fit:
    """The rows to train and the frozen model."""

    def __init__(
        self, options: TokenDistillation, source_model: SourceModel, rows: Rows, places: dict[int, int]
    ) -> None:
        self.options, self.model, self.places = options, source_model.model, places
        self.front = [] if source_model.bos_id is None else [source_model.bos_id]
        self.embed: Any = source_model.model.get_input_embeddings()
        self.scale = getattr(self.embed, "embed_scale", 1.0)
        head = head_of(source_model.model) if "output" in rows.matrices else None
        self.head: Head | None = head
        tokens = torch.tensor(sorted(places))
        kinds: tuple[Kind, ...] = ("input",) if head is None else ("input", "output")
        self.learned: dict[Kind, nn.Parameter] = {
            kind: nn.Parameter(rows.matrices[kind][tokens].float().to(source_model.model.device)) for kind in kinds
        }
        self.optimizer = torch.optim.Adam(list(self.learned.values()), lr=options.lr)

    def step(self, snippets: list[_Snippet], *, rate: float) -> None:
        """Train the rows of the tokens in ``snippets``."""
        self.optimizer.param_groups[0]["lr"] = rate * self.options.lr
        loss = self._loss(snippets)
        for parameter, gradient in zip(
            self.learned.values(), torch.autograd.grad(loss, list(self.learned.values())), strict=True
        ):
            parameter.grad = gradient
        self.optimizer.step()

    @torch.no_grad()
    def error(self, snippets: list[_Snippet]) -> float:
        """Return the mean squared distance of hidden states, per channel, relative to their mean square."""
        total = norm = 0.0
        for first in range(0, len(snippets), self.options.batch):
            ours, theirs, _ = self._states(snippets[first : first + self.options.batch])
            total, norm = total + float((ours - theirs).square().sum()), norm + float(theirs.square().sum())
        return round(total / max(norm, 1e-12), 6)

    def _loss(self, snippets: list[_Snippet]) -> Tensor:
        ours, theirs, reading = self._states(snippets)
        loss = (ours - theirs).square().mean() / theirs.square().mean().clamp(min=1e-12)
        if self.head is not None:
            loss = loss + self._output_loss(snippets, reading)
        return loss

    def _states(self, snippets: list[_Snippet]) -> tuple[Tensor, Tensor, Tensor]:
        """Return the states of both readings from the new token on, ``[p, d]`` each, and the old one's last states."""
        with torch.no_grad():
            old = [[*self.front, *snippet.ids] for snippet in snippets]
            answer = self._read(
                nn.utils.rnn.pad_sequence([self.embed(self._ids(ids)) for ids in old], batch_first=True)
            )
        sequences = []
        for snippet in snippets:
            row = self.learned["input"][self.places[snippet.token]] * self.scale
            before = self.embed(self._ids([*self.front, *snippet.ids[: snippet.first]]))
            after = self.embed(self._ids(snippet.ids[snippet.stop :]))
            sequences.append(torch.cat([before, row[None].to(before.dtype), after]))
        ours = self._read(nn.utils.rnn.pad_sequence(sequences, batch_first=True))
        pairs = []
        for index, snippet in enumerate(snippets):
            tail, offset = len(snippet.ids) - snippet.stop + 1, len(self.front)
            here, there = offset + snippet.first, offset + snippet.stop - 1
            pairs.append((ours[0][index, here : here + tail], answer[0][index, there : there + tail]))
        return torch.cat([a for a, _ in pairs]).float(), torch.cat([b for _, b in pairs]).float(), answer[1]

    def _read(self, embedded: Tensor) -> tuple[Tensor, Tensor]:
        """Return the hidden states of the chosen and of the last layer, ``[b, n, d]``; right-padded."""
        states = self.model(
            inputs_embeds=embedded, use_cache=False, output_hidden_states=True, logits_to_keep=1
        ).hidden_states
        return states[self.options.layer], states[-1]

    def _output_loss(self, snippets: list[_Snippet], states: Tensor) -> Tensor:
        """Return the binary cross-entropy between the new output rows and the probability of the old pieces."""
        head, terms = self.head, []
        if head is None:
            raise ValueError("output rows cannot be fitted for a model with an unknown output head")
        for index, snippet in enumerate(snippets):
            start = len(self.front) + snippet.first
            if not start:  # nothing predicts the first token of a text
                continue
            with torch.no_grad():
                logits = head.logits(states[index, start - 1 : len(self.front) + snippet.stop - 1])
                norms = logits.logsumexp(dim=-1)
                pieces = self._ids(snippet.ids[snippet.first : snippet.stop])
                target = (logits.gather(-1, pieces[:, None]).squeeze(-1) - norms).sum().exp()
            row = self.learned["output"][self.places[snippet.token]]
            logit = Head(_Row(row), head.scale, head.cap).logits(states[index, start - 1 : start])[0, 0]
            terms.append(nn.functional.binary_cross_entropy_with_logits(logit - norms[0], target))
        return torch.stack(terms).mean() if terms else states.new_zeros(())

    def _ids(self, ids: list[int]) -> Tensor:
        return torch.tensor(ids, dtype=torch.int64, device=self.model.device)


class _Row(nn.Module):
    """A single row in place of an output layer."""

    def __init__(self, row: Tensor) -> None:
        super().__init__()
        self.weight = row[None]
