"""Shared ids of two vocabularies: tokens with equal bytes, or special tokens with the same name.

Other implementations compare token strings, in which model families encode spaces and non-ASCII characters differently.
For Gemma 2 and Llama 3 they find 25,632 shared tokens instead of 85,699 (tokenkit's count).
"""

import torch
from torch import Tensor

from crosstok.distill.readings.model_info import ModelInfo
from crosstok.distill.tokenizers.matching import match


def shared_ids(student: ModelInfo, teacher: ModelInfo) -> tuple[Tensor, Tensor]:
    """Return the paired student and teacher ids, ``[k]`` int64 each, one to one, ascending by student id."""
    names = {name: token for token, name in teacher.tokens.specials.items()}
    specials = {token: names[name] for token, name in student.tokens.specials.items() if name in names}
    copied, _ = match(teacher.tokens, student.tokens, specials)
    pairs: dict[int, int] = {}
    for here, there in enumerate(copied[: student.valid_rows].tolist()):
        data = student.tokens.table[here]
        if 0 <= there < teacher.valid_rows and (there not in pairs or here == student.tokens.id_of(data or b"")):
            pairs[there] = here  # of several ids with the same bytes, the one used for encoding
    found = sorted((here, there) for there, here in pairs.items())
    both = torch.tensor(found, dtype=torch.int64).reshape(-1, 2)
    return both[:, 0], both[:, 1]


def without(ids: Tensor, size: int) -> Tensor:
    """Return the ids below ``size`` that are not in ``ids``."""
    rest = torch.ones(size, dtype=torch.bool, device=ids.device)
    rest[ids] = False
    return rest.nonzero()[:, 0]
