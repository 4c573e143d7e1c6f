"""Uptake of new tokens: the probability that a model assigns to a new token and to its old spelling.

The model reads the same text twice, with its new tokens and with each of them spelt in old ones, which it can still do.
Where the text has a new token w = t1 .. tk, ``p_new`` is p(w) in the first reading and ``p_spelling`` the product of
the p(t_i) in the second. Before training, nearly all probability is on the spelling; for a model that has adopted the
token, it is on the token.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from crosstok.distill.models.checkpoints import Checkpoint
from crosstok.distill.tokenizers.spellings import spellings
from crosstok.distill.tokenizers.tokenbytes import Encoding


@torch.no_grad()
def uptake(student: Checkpoint, first: int, texts: Sequence[str]) -> dict[str, float]:
    """Return the figures of ``student``, whose new ids start at ``first``, on ``texts``.

    The keys are ``tokens_per_byte`` and ``bits_per_byte``, and both with the suffix ``_spelt`` for the reading in old
    tokens; ``token_share`` and ``byte_share`` of new ids in the text; the numbers of ``distinct`` and ``unused`` new
    ids; ``p_new`` and ``p_spelling``, means over occurrences (absent if there are none). Texts that the tokenizer does
    not preserve are skipped. Without a BOS, the first token of a text is not scored. Each text is read in one pass.
    """
    tokens = student.tokenbytes
    spelt = spellings(tokens, first)
    front = [] if student.bos_id is None else [student.bos_id]
    seen: set[int] = set()
    size = new_bytes = new_tokens = count = count_spelt = scored = 0
    nats = np.zeros(2)
    p_new: list[float] = []
    p_spelling: list[float] = []
    for text, encoding in zip(texts, tokens.try_encode_many(texts), strict=True):
        if not isinstance(encoding, Encoding) or not len(encoding.ids):
            continue
        ids = encoding.ids.tolist()
        pieces = [spelt[one - first] if one >= first else (one,) for one in ids]
        old = [piece for group in pieces for piece in group]
        ours, theirs = _scores(student, front, ids), _scores(student, front, old)
        skipped = 0 if front else 1  # without a BOS, the first token is not predicted
        unscored = skipped * len(pieces[0])
        nats += -float(ours[skipped:].sum()), -float(theirs[unscored:].sum())
        scored += len(text.encode()) - skipped * int(tokens.lengths[ids[0]])
        size, count, count_spelt = size + len(text.encode()), count + len(ids), count_spelt + len(old)
        place = 0
        for index, (one, group) in enumerate(zip(ids, pieces, strict=True)):
            if one >= first:
                seen.add(one)
                new_tokens, new_bytes = new_tokens + 1, new_bytes + int(tokens.lengths[one])
                if index >= skipped:
                    p_new.append(float(ours[index].exp()))
                    p_spelling.append(float(theirs[place : place + len(group)].sum().exp()))
            place += len(group)
    if not size:
        return {}
    bits = nats / np.log(2) / max(scored, 1)
    found = {
        "tokens_per_byte": count / size,
        "tokens_per_byte_spelt": count_spelt / size,
        "token_share": new_tokens / count,
        "byte_share": new_bytes / size,
        "distinct": float(len(seen)),
        "unused": float(tokens.size - first - len(seen)),
        "bits_per_byte": float(bits[0]),
        "bits_per_byte_spelt": float(bits[1]),
    }
    if p_new:
        found |= {"p_new": float(np.mean(p_new)), "p_spelling": float(np.mean(p_spelling))}
    return {name: round(value, 6) for name, value in found.items()}


def _scores(student: Checkpoint, front: list[int], ids: list[int]) -> Tensor:
    """Return the log-probability of each of ``ids``; 0 for the first one without a BOS."""
    sequence = torch.tensor([[*front, *ids]], device=student.model.device)
    logits = student.model(input_ids=sequence).logits[0, :-1, : student.valid_rows].float()
    found = logits.log_softmax(-1).gather(-1, sequence[0, 1:, None])[:, 0].cpu()
    return found if front else torch.cat([torch.zeros(1), found])
