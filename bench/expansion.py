"""Claims about vocabulary expansion by self-distillation, tested at small scale.

    python bench/expansion.py [--size 300] [--steps 20] [--inits fvt zero] [--losses kl sft] [--stage-2]

Claims of Rehman Linder (arXiv 2508.15807, abstract): the rows of new tokens are learnt while everything else is frozen;
KL to the model itself with its old tokens is better than cross-entropy for every initialisation; the model can be
fine-tuned afterwards. The paper's details are not public, so tokens, losses, schedule and all measures here are a
reconstruction, and at this scale (one small model, kilobytes of text, no code-generation score) they can neither
confirm nor refute it.

First the cost of stage 1: the time of a step of new rows against the passes that it cannot do without (the teacher's
forward pass to its logits; forward and backward pass through the frozen student, with gradients only for its embedding
output), and its peak of memory against training all weights. Each way runs in processes of its own, in turn with the
others; the shortest of several times counts, since noise only ever adds. Then one row per student: share of new ids,
``p_new`` and ``p_spelling`` where text has a new token, bits per byte on the domain (stdlib) and on general text
(docstrings), and what is written greedily: bytes/s, and share, number and disuse of new ids. The last line is JSON.
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from process import last_line, run

from crosstok.corpora import load_texts
from crosstok.distill.expansion.new_rows import train_new_rows
from crosstok.distill.expansion.uptake import uptake
from crosstok.distill.losses import ModelInfo, Reader
from crosstok.distill.models import checkpoints
from crosstok.distill.recipes.student import check_student, make_student
from crosstok.distill.registry import LOSSES
from crosstok.distill.training.windows import Encoder, collate
from crosstok.harness.generation.generator import Generator
from crosstok.tasks.task import Generate

_TEXTS, _BYTES = 12, 768
_REPEATS, _ROUNDS = 4, 2
_WAYS = ("passes", "new_rows", "full")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="wheel:smollm2-135m-instruct")
    parser.add_argument("--size", type=int, default=300, help="new tokens")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--inits", nargs="*", default=["fvt", "zero"])
    parser.add_argument("--losses", nargs="*", default=["kl", "sft"])
    parser.add_argument("--stage-2", action="store_true", help="go on from the first student with LoRA")
    parser.add_argument("--cost", nargs=2, metavar=("WAY", "STUDENT"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.cost:
        print(json.dumps(cost(chosen.cost[0], chosen.model, Path(chosen.cost[1]))))
        return
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps({"bench": "expansion", **measured(chosen, Path(folder))}))


def measured(chosen: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Return costs and rows, and print them on the way."""
    tokens = {"train_bpe": {"corpus": "stdlib", "size": chosen.size}}
    common = {"from": chosen.model, "tokens": tokens, "batch": 2, "window_bytes": 512, "lr": 1e-3, "warmup": 3}
    start = make_student(check_student("expand", {**common, "loss": [], "steps": 0}), folder / "start")
    rounds = [{way: _in_a_process(way, chosen.model, start) for way in _WAYS} for _ in range(_ROUNDS)]
    costs = {way: {name: min(one[way][name] for one in rounds) for name in rounds[0][way]} for way in _WAYS}
    pace = costs["new_rows"]["seconds"] / costs["passes"]["seconds"]
    memory = costs["new_rows"]["bytes"] / costs["full"]["bytes"]
    print(
        f"a stage-1 step takes {pace:.2f} of a forward and backward pass, {memory:.2f} of the memory of full training"
    )
    rows = [row_of("not trained, fvt", start)]
    first: Path | None = None
    for init in chosen.inits:
        for loss in chosen.losses:
            spec = check_student("expand", {**common, "init": init, "loss": [loss], "steps": chosen.steps})
            out = make_student(spec, folder / f"{init}-{loss}")
            first = first or out
            rows.append(row_of(f"{init}, {loss}", out))
    if chosen.stage_2 and first is not None:
        second = {key: common[key] for key in ("batch", "window_bytes", "warmup")}
        options = {**second, "from": str(first), "teacher": chosen.model, "loss": ["kl"], "train": "lora", "lr": 1e-4}
        out = make_student(check_student("distil", {**options, "steps": chosen.steps}), folder / "second")
        rows.append(row_of(f"{first.name}, then LoRA with kl", out))
    return {"time_ratio": pace, "memory_ratio": memory, "costs": costs, "rows": rows}


def row_of(name: str, folder: Path) -> dict[str, Any]:
    """Return and print what one student does."""
    student = checkpoints.load(str(folder))
    first = int(student.provenance["expansion"]["first"])
    domain, general = (uptake(student, first, texts(corpus)) for corpus in ("stdlib", "docstrings"))
    prompts = [text[:200] for text in texts("stdlib")[:6]]
    answers = list(Generator(student).generate([Generate(prompt, max_bytes=96) for prompt in prompts]))
    ids = [one for answer in answers for one in answer.ids]
    written = [one for one in ids if one >= first]
    size, seconds = sum(len(answer.data) for answer in answers), sum(answer.seconds for answer in answers)
    row = {
        "student": name,
        "domain": domain,
        "general": general,
        "bytes_per_s": size / seconds,
        "written_token_share": len(written) / max(1, len(ids)),
        "written_byte_share": sum(int(student.tokenbytes.lengths[one]) for one in written) / max(1, size),
        "written_distinct": len(set(written)),
        "written_unused": student.tokenbytes.size - first - len(set(written)),
    }
    print(
        f"{name:<26} p_new {domain.get('p_new', 0):.3f}, spelling {domain.get('p_spelling', 0):.3f}; "
        f"bits/byte {domain['bits_per_byte']:.4f} domain, {general['bits_per_byte']:.4f} general; tokens/byte "
        f"{domain['tokens_per_byte_spelt']:.3f} to {domain['tokens_per_byte']:.3f}; writes {row['bytes_per_s']:.0f} "
        f"bytes/s, {100 * row['written_token_share']:.1f} % of tokens new, {row['written_distinct']} different"
    )
    return row


def texts(corpus: str) -> list[str]:
    """Return the beginnings of a few held-out documents."""
    documents = load_texts(corpus, "heldout").documents[:_TEXTS]
    return [document.text.encode()[:_BYTES].decode(errors="ignore") for document in documents]


def cost(way: str, source: str, folder: Path) -> dict[str, float]:
    """Return seconds of a step and the peak of memory of one way of training; called in a process of its own.

    ``passes``: the teacher's own forward pass and the student's forward and backward pass with its own cross-entropy,
    with weights frozen and a gradient for what its embeddings return. ``new_rows`` and ``full``: a step with KL and
    AdamW.
    """
    teacher, student = checkpoints.load(source), checkpoints.load(str(folder))
    network: Any = student.model
    encoders = [Encoder(one.tokenbytes, one.bos_id) for one in (teacher, student)]
    batch = collate([(text, *(one.encode_many([text])[0] for one in encoders)) for text in texts("stdlib")[:2]])  # type: ignore[misc]  # plain text
    models = [ModelInfo(one.tokenbytes, one.valid_rows, one.model) for one in (teacher, student)]
    readers = [Reader.of(model.tokens, model.valid_rows) for model in models]
    loss = LOSSES.create("kl")
    loss.prepare(models[1], models[0])
    if way == "new_rows":
        rows = train_new_rows(network, int(student.provenance["expansion"]["first"]))
    else:
        network.requires_grad_(way == "full")
        rows = list(network.parameters())
    optimizer = torch.optim.AdamW(rows) if way != "passes" else None

    def step() -> None:
        if optimizer is None:
            with torch.no_grad():
                models[0].network(**batch.teacher.inputs)
            inputs = network.get_input_embeddings()(batch.student.ids).detach().requires_grad_()
            network(inputs_embeds=inputs, labels=batch.student.ids).loss.backward()
            return
        with torch.no_grad():
            taught = readers[0].read(models[0].network, batch.teacher, loss.of_teacher)
        loss(batch, readers[1].read(network, batch.student, loss.of_student), taught).sum.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return {"seconds": _shortest(step), "bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0}


def _shortest(step: Callable[[], None]) -> float:
    """Return the shortest time of several; the first one warms up."""
    taken = []
    for _ in range(1 + _REPEATS):
        start = time.perf_counter()
        step()
        taken.append(time.perf_counter() - start)
    return min(taken[1:])


def _in_a_process(way: str, model: str, student: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--model", model, "--cost", way, str(student)]
    found: dict[str, float] = json.loads(last_line(command))
    return found


if __name__ == "__main__":
    run(main)
