"""TokenCover target of the loss ``kl``: the teacher's distribution over a larger vocabulary, from one pass.

``q(w) = prod_i p_T(t_i)`` for a new token w, and an old token keeps the remaining mass: ``q(a) = p_T(a) - sum q(w)``
over the longest w that begin with a, because the student's tokenizer does not encode w as ``a`` and the rest of w.
Conditionals are known along the text that follows and one token beside it; outcomes that need others stay merged. The
divergence over all distinguished outcomes is that of the classes plus that within the class of the actual next token::

    KL = KL(p_T || p')  +  sum_o q(o) ln(q(o) / p(o))  -  p_T(a) ln(p_T(a) / p'(a)),        o in the class of a

It is exact if the student's tokenizer writes the longest new token that fits, which BPE nearly always does.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from crosstok.distill.models.fused_scoring import Order, score
from crosstok.distill.models.output_head import Head
from crosstok.distill.readings.batch import AlignedBatch
from crosstok.distill.readings.positions import Places
from crosstok.distill.tokenizers.token_cover import TokenCover, TokenOutcomes

BLOCK = 1 << 23  # logits of one model per block


@dataclass(frozen=True)
class TeacherStates:
    """The teacher's outputs for a batch."""

    states: Tensor
    """``[b, n, d]`` last hidden states."""
    head: Head
    size: int
    """Number of its ids."""

    @torch.no_grad()
    def log_probabilities(self, rows: Tensor, after: Tensor, ids: Tensor) -> Tensor:
        """Return the log-probability of ``ids [p]`` after token ``after[i]`` of row ``rows[i]`` without logits."""
        order = Order.of(torch.zeros(self.size, dtype=torch.bool))
        return score(self.states[rows, after], ids, self.head, order)[0]

    @torch.no_grad()
    def conditionals(self, queries: Sequence[tuple[int, int, int]]) -> list[float]:
        """Return the probability of each query (row, token after which, id); each state is read once."""
        if not queries:
            return []
        width = self.states.shape[1]
        rows, after, ids = torch.tensor(queries, dtype=torch.int64, device=self.states.device).T
        places, entry = torch.unique(rows * width + after, return_inverse=True)
        found = self.states.new_zeros(len(ids))
        block = max(1, BLOCK // self.size)
        for start in range(0, len(places), block):
            chosen = places[start : start + block]
            logits = self.head.logits(self.states[chosen // width, chosen % width], slice(0, self.size))
            here = (entry >= start) & (entry < start + block)
            found[here] = logits.softmax(dim=-1)[entry[here] - start, ids[here]]
        return [float(value) for value in found]


@dataclass(frozen=True)
class CoverTarget:
    """The distinguished outcomes within classes, for all positions of a batch, as flat arrays."""

    places: Tensor
    """``[r]`` positions, ascending, at which the class of the next token is split into outcomes."""
    firsts: Tensor
    """``[r]`` next token (old id) at each of these positions."""
    owners: Tensor
    """``[o]`` index into ``places`` of each outcome."""
    masses: Tensor
    """``[o]`` probability of each outcome given its class, fp64."""
    outcomes: Tensor
    """``[t]`` outcome of each student token."""
    tokens: Tensor
    """``[t]`` id of each student token."""
    first_new: int

    @classmethod
    @torch.no_grad()
    def of(cls, cover: TokenCover, batch: AlignedBatch, places: Places, teacher: "TeacherStates") -> "CoverTarget":
        """Follow the text from every position."""
        ids = batch.teacher.ids.tolist()
        stops = {(row, token): stop for row, start, stop in batch.teacher.windows() for token in range(start, stop)}
        found: list[tuple[int, TokenOutcomes]] = []
        queries: list[tuple[int, int, int]] = []
        for place, (row, token) in enumerate(zip(places.rows.tolist(), places.teacher.tolist(), strict=True)):
            split = cover.outcomes(ids[row][token : stops[row, token]])
            if split is not None:
                found.append((place, split))
                queries.extend(
                    (row, token + depth - 1, old) for depth, old in zip(split.depths, split.ids, strict=True)
                )
        conditionals = iter(teacher.conditionals(queries))
        owners: list[int] = []
        masses: list[float] = []
        outcomes: list[int] = []
        tokens: list[int] = []
        for entry, (_, split) in enumerate(found):
            masses.extend(split.masses([next(conditionals) for _ in split.ids]))
            for inside in split.tokens:
                outcomes.extend([len(owners)] * len(inside))
                tokens.extend(inside)
                owners.append(entry)
        device = teacher.states.device
        flat = ([place for place, _ in found], [split.tokens[0][0] for _, split in found], owners, outcomes, tokens)
        at, firsts, own, outcome, token = (torch.tensor(part, dtype=torch.int64, device=device) for part in flat)
        return cls(
            at, firsts, own, torch.tensor(masses, dtype=torch.float64, device=device), outcome, token, teacher.size
        )

    def value(self, p: Tensor, old: Tensor, new: Tensor, part: slice) -> Tensor:
        """Return the sum over the positions ``part`` of the divergence within classes.

        ``p [q, V]`` are the teacher's log-probabilities, ``old [q, V]`` and ``new [q, k]`` the student's logits.
        """
        inside = (self.places >= part.start) & (self.places < part.stop)
        mine = inside[self.owners]
        used = mine[self.outcomes]
        place = (self.places - part.start)[self.owners]
        rows, tokens = place[self.outcomes][used], self.tokens[used]
        fresh = tokens >= self.first_new
        logits = old.new_zeros(len(tokens))
        logits = logits.index_put((~fresh,), old[rows[~fresh], tokens[~fresh]])
        logits = logits.index_put((fresh,), new[rows[fresh], tokens[fresh] - self.first_new])
        norm = torch.logaddexp(old.logsumexp(dim=1), new.logsumexp(dim=1))
        given = (logits - norm[rows]).double().exp()
        ours = given.new_zeros(len(self.owners)).index_add(0, self.outcomes[used], given)
        merged_ours = given.new_zeros(len(self.places)).index_add(0, self.owners, ours)[inside]
        of_class = p[(self.places - part.start)[inside], self.firsts[inside]].double()
        entries = torch.zeros(len(self.places), dtype=torch.float64, device=p.device)
        entries[inside] = of_class.exp()
        q = (entries[self.owners] * self.masses)[mine]
        apart = (torch.special.xlogy(q, q) - torch.special.xlogy(q, ours[mine])).sum()
        total: Tensor = (apart - (of_class.exp() * (of_class - merged_ours.log())).sum()).float()
        return total
