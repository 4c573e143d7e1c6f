"""Which ids of two vocabularies mean the same: equal bytes, or special tokens of the same name.

Published programs compare the strings of the vocabularies, in which families write a space or a letter outside ASCII
differently: of Gemma 2 and Llama 3 they find 25,632 common tokens, where there are 85,699 (tokenkit's count).
"""

import torch
from torch import Tensor

from crosstok.distill.readings.model_info import ModelInfo
from crosstok.distill.tokenizers.matching import match


def shared_ids(student: ModelInfo, teacher: ModelInfo) -> tuple[Tensor, Tensor]:
    """Return student ids and teacher ids, ``[k]`` int64 each, that are paired one to one, by rising student id."""
    names = {name: token for token, name in teacher.tokens.specials.items()}
    specials = {token: names[name] for token, name in student.tokens.specials.items() if name in names}
    copied, _ = match(teacher.tokens, student.tokens, specials)
    pairs: dict[int, int] = {}
    for here, there in enumerate(copied[: student.valid_rows].tolist()):
        data = student.tokens.table[here]
        if 0 <= there < teacher.valid_rows and (there not in pairs or here == student.tokens.id_of(data or b"")):
            pairs[there] = here  # of several ids with these bytes the one that encoding uses
    found = sorted((here, there) for there, here in pairs.items())
    both = torch.tensor(found, dtype=torch.int64).reshape(-1, 2)
    return both[:, 0], both[:, 1]


def without(ids: Tensor, size: int) -> Tensor:
    """Return the ids below ``size`` that are not among ``ids``."""
    rest = torch.ones(size, dtype=torch.bool, device=ids.device)
    rest[ids] = False
    return rest.nonzero()[:, 0]
