"""Likelihood beside lm-eval's own ``hf`` model: HellaSwag, five-shot MMLU, and bits per byte of whole texts.

    python bench/choice.py hellaswag [--items 100] [--dtype bfloat16] [--model SOURCE]
    python bench/choice.py mmlu      [--items 100]            # one subject, five shots
    python bench/choice.py rolling   [--bytes 20000] [--model SOURCE]

Needs a data folder (``CROSSTOK_DATA``). Multiple choice: both sides get the same requests and weights in one process,
one after the other; lm-eval gets batches of 16 and fp32 softmax. Whole texts: each side in a process of its own, as
peak memory is that of a process. Read the ratios, not the absolute numbers.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from process import run

from crosstok.corpora import load_texts
from crosstok.distill.models import checkpoints
from crosstok.distill.models.checkpoints import Checkpoint
from crosstok.harness.likelihood.rolling import Scorer
from crosstok.harness.lm_eval.requests import by_context
from crosstok.harness.lm_eval.task import LmEvalTask
from crosstok.tasks.registry import build_task
from crosstok.tasks.task import Continuations, Rolling

PARTS = {"hellaswag": ("hellaswag", {}), "mmlu": ("lm_eval:mmlu_anatomy", {"fewshot": 5})}


def main() -> None:
    """Run one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=[*PARTS, "rolling"])
    parser.add_argument("--model", default="wheel:smollm2-135m-instruct")
    parser.add_argument("--items", type=int, default=100)
    parser.add_argument("--bytes", type=int, default=20_000)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--side", choices=["crosstok", "lm-eval"], help="Rolling: run this side alone.")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    if chosen.part != "rolling":
        multiple_choice(chosen)
    elif chosen.side:
        print(json.dumps(roll(chosen)))
    else:
        both_sides()


def multiple_choice(chosen: argparse.Namespace) -> None:
    """Score the same requests with both and print items per second, their ratio and what differs."""
    kind, options = PARTS[chosen.part]
    task = build_task(kind, {**options, "limit": chosen.items})
    if not isinstance(task, LmEvalTask):
        raise SystemExit(f"{kind} is not one of lm-eval's")
    instances = [task.instances(document, "raw") for document in task.documents()]
    flat = [one for group in instances for one in group]
    checkpoint = checkpoints.load(chosen.model, dtype=chosen.dtype)
    scorer = Scorer(checkpoint, max_batch_tokens=chosen.batch_tokens)
    requests = [request for group in instances for request in by_context([one.args for one in group])[0]]
    list(scorer.continuations(requests[:2]))  # warm
    began = time.perf_counter()
    answers = sorted(scorer.continuations(requests), key=lambda answer: answer.index)
    ours = time.perf_counter() - began
    beside = [Continuations(one.context, one.continuations, unconditional="Answer:") for one in requests]
    began = time.perf_counter()
    list(scorer.continuations(beside))
    with_pmi = time.perf_counter() - began
    began = time.perf_counter()
    found = iter(peer(checkpoint).loglikelihood(flat, disable_tqdm=True))
    theirs = time.perf_counter() - began
    differences, same = [], 0
    for answer in answers:
        left, right = [-nats for nats in answer.likelihoods.nats], [next(found)[0] for _ in answer.likelihoods.nats]
        same += left.index(max(left)) == right.index(max(right))
        differences += [abs(one - other) for one, other in zip(left, right, strict=True)]
    count = len(answers)
    print(f"{chosen.part}, {count} items, {chosen.dtype}, {chosen.threads} threads")
    print(f"crosstok: {count / ours:6.2f} items/s ({ours:.1f} s; with acc_pmi {with_pmi:.1f} s)")
    print(f"lm-eval:  {count / theirs:6.2f} items/s ({theirs:.1f} s)")
    straddled = sum(answer.straddled_bytes > 0 for answer in answers)
    print(
        f"ratio: {theirs / ours:.2f}; same choice {same} of {count}; largest difference {max(differences):.2g} nats, "
        f"{straddled} items with a straddled border, {answers[0].tokens_shared} tokens shared"
    )


def peer(checkpoint: Checkpoint, **options: object) -> HFLM:
    """Return lm-eval's own model over the same weights."""
    return HFLM(
        pretrained=checkpoint.model,
        tokenizer=checkpoint.tokenizer,
        batch_size=16,
        softmax_dtype="float32",
        add_bos_token=checkpoint.bos_id is not None,
        **options,
    )


def both_sides() -> None:
    """Run both sides of `rolling`, each in its own process, with the arguments of this one."""
    sides = {}
    for side in ("crosstok", "lm-eval"):
        command = [sys.executable, __file__, *sys.argv[1:], "--side", side]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:  # lm-eval's batch of 16 windows over 262,144 ids does not fit into 24 GB
            said = (done.stderr.strip().splitlines() or [""])[-1]
            memory = ", out of memory" * (done.returncode == -9)
            raise SystemExit(f"{side} died with {done.returncode}{memory}: {said}")
        sides[side] = json.loads(done.stdout.splitlines()[-1])
        print(f"{side:<9} {sides[side]}")
    ours, theirs = sides["crosstok"], sides["lm-eval"]
    print(
        f"ratio: {ours['bytes_per_s'] / theirs['bytes_per_s']:.2f} in bytes/s, "
        f"{ours['peak_beyond_weights_mb'] / theirs['peak_beyond_weights_mb']:.2f} in memory beyond the weights"
    )


def roll(chosen: argparse.Namespace) -> dict[str, float]:
    """Score texts with one side; return bytes/s, bits/byte and the peak of memory beyond the loaded model, in MB."""
    checkpoint = checkpoints.load(chosen.model, dtype=chosen.dtype)
    text = "".join(document.text for document in load_texts("peps", "heldout").documents)[: chosen.bytes]
    texts = [text[at : at + 5000] for at in range(0, len(text), 5000)]
    theirs = peer(checkpoint, max_length=512)  # about 2048 bytes of English
    loaded = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * resource.getpagesize()
    began = time.perf_counter()
    if chosen.side == "crosstok":
        scorer = Scorer(checkpoint, max_batch_tokens=chosen.batch_tokens)
        nats = sum(answer.nats for answer in scorer.rolling([Rolling(one, 2048, 2048) for one in texts]))
    else:
        asked = [Instance("loglikelihood_rolling", {}, (one,), 0, ("", 0, 1)) for one in texts]
        nats = -sum(theirs.loglikelihood_rolling(asked, disable_tqdm=True))
    seconds = time.perf_counter() - began
    size = sum(len(one.encode()) for one in texts)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "bytes_per_s": round(size / seconds, 1),
        "bits_per_byte": round(nats / size / 0.6931471805599453, 4),
        "peak_beyond_weights_mb": round((peak - loaded) / 1e6),
    }


if __name__ == "__main__":
    run(main)
