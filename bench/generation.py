"""Generation beside lm-eval's ``hf`` model: greedy HumanEval, many samples of a prompt, and the cost of stop strings.

    python bench/generation.py greedy  [--problems 60] [--rounds 2] [--peer-rows 16 32 60]
    python bench/generation.py sampled [--problems 8] [--samples 20]
    python bench/generation.py stops   [--rows 32]
    python bench/generation.py agree   [--problems 50] [--max-tokens 48]

``greedy`` and ``sampled`` give both sides the same weights in one process, the same prompts, lm-eval's five stop
strings for HumanEval and the same cap in tokens, and take turns, so that a busy machine slows both. lm-eval is run at
several batch sizes and its best one counts; its ``repeats`` are what it does for n samples: the prompt n times. Useful
bytes are those before the stop. ``stops`` times one step of matching beside transformers' ``StopStringCriteria``.
``agree`` counts the greedy answers, one token at a time in fp32, that equal transformers' ``generate`` on one prompt.

Read the ratios, not the absolute numbers; on a busy machine those by CPU time with one thread (OMP_NUM_THREADS=1). The
last line is JSON.
"""

import argparse
import json
import logging
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from process import run

from crosstok.distill.models import checkpoints
from crosstok.distill.models.checkpoints import Checkpoint
from crosstok.harness.generation.generator import Generator
from crosstok.harness.generation.stops import StopMatcher
from crosstok.tasks.registry import build_task
from crosstok.tasks.task import Generate, Sampling

UNTIL = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")  # of lm-eval's humaneval
SIX_STOPS = (*UNTIL, "\n```")


def main() -> None:
    """Run one of the comparisons."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["greedy", "sampled", "stops", "agree"])
    parser.add_argument("--model", default="wheel:smollm2-135m-instruct")
    parser.add_argument("--dtype", default=None, help="bfloat16; for `agree` float32")
    parser.add_argument("--problems", type=int, default=None)
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--rows", type=int, default=None, help="places of the engine; 60 for greedy, else 32")
    parser.add_argument("--peer-rows", type=int, nargs="+", default=[16, 32, 60])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--max-tokens", type=int, default=None)
    chosen = parser.parse_args()
    chosen.rows = chosen.rows or (60 if chosen.what == "greedy" else 32)  # as many as the peer's largest batch has
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    torch.manual_seed(0)
    print(f"{torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}")
    found = {"greedy": greedy, "sampled": sampled, "stops": stops, "agree": agree}[chosen.what](chosen)
    print(json.dumps({"bench": f"generation {chosen.what}", "model": chosen.model, **found}))


def greedy(chosen: argparse.Namespace) -> dict[str, Any]:
    """One greedy answer per prompt."""
    checkpoint = checkpoints.load(chosen.model, dtype=chosen.dtype or "bfloat16")
    requests = humaneval(chosen.problems or 60)
    return compare(checkpoint, requests, requests, {"do_sample": False}, chosen)


def sampled(chosen: argparse.Namespace) -> dict[str, Any]:
    """Many sampled answers per prompt."""
    checkpoint = checkpoints.load(chosen.model, dtype=chosen.dtype or "bfloat16")
    sampling = Sampling(temperature=chosen.temperature, top_p=0.95)
    prompts = humaneval(chosen.problems or 8)
    ours = [replace(prompt, sampling=sampling, seeds=tuple(range(chosen.samples))) for prompt in prompts]
    theirs = [prompt for prompt in prompts for _ in range(chosen.samples)]
    options = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p}
    return compare(checkpoint, ours, theirs, options, chosen)


def compare(
    checkpoint: Checkpoint,
    ours: Sequence[Generate],
    theirs: Sequence[Generate],
    options: dict[str, Any],
    chosen: argparse.Namespace,
) -> dict[str, Any]:
    """Take turns; the rate of a side is its median over the rounds, the peer's is that of its best batch size."""
    cap = chosen.max_tokens or 128
    generator = Generator(checkpoint, max_batch_rows=chosen.rows, max_tokens=cap)
    peers = {rows: lm_eval_model(checkpoint, rows) for rows in chosen.peer_rows}
    list(generator.generate([replace(ours[0], seeds=(0,))]))  # warm
    rates: dict[str, list[float]] = {}
    cpu_rates: dict[str, list[float]] = {}
    tokens: dict[str, int] = {}

    def turn(name: str, work: Callable[[], tuple[int, int]]) -> None:
        began, began_cpu = time.perf_counter(), time.process_time()
        useful, tokens[name] = work()
        seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - began_cpu
        rates.setdefault(name, []).append(useful / seconds)
        cpu_rates.setdefault(name, []).append(useful / cpu_seconds)
        print(
            f"{name:>12}: {useful / seconds:7.1f} bytes/s  ({useful} bytes, {seconds:.1f} s, {tokens[name]} row-steps)"
        )

    def engine() -> tuple[int, int]:
        before = generator.counts.row_steps
        useful = sum(len(answer.data) for answer in generator.generate(ours))
        return useful, generator.counts.row_steps - before

    for _ in range(chosen.rounds):
        turn("engine", engine)
        for rows, model in peers.items():
            turn(f"lm-eval {rows}", lambda model=model: by_lm_eval(model, theirs, cap, options))  # type: ignore[misc]
    medians = {name: statistics.median(found) for name, found in rates.items()}
    best = max((name for name in medians if name != "engine"), key=lambda name: medians[name])
    ratio = medians["engine"] / medians[best]
    cpu = {name: statistics.median(found) for name, found in cpu_rates.items()}
    cpu_ratio = cpu["engine"] / max(rate for name, rate in cpu.items() if name != "engine")
    wasted = generator.counts.wasted_row_steps
    read = generator.counts.columns_read / generator.counts.columns
    print(f"ratio: {ratio:.2f} to {best}, {cpu_ratio:.2f} by CPU time; wasted row-steps of the engine: {wasted}")
    print(f"columns of keys that it read: {read:.2f} of those that belong to the rows")
    return {
        "bytes_per_s": medians,
        "row_steps": tokens,
        "ratio": ratio,
        "cpu_ratio": cpu_ratio,
        "best_peer": best,
        "wasted_row_steps": wasted,
        "columns_read": read,
        "prompt_tokens_read": generator.counts.prompt_tokens_read,
    }


def humaneval(problems: int) -> list[Generate]:
    """Return the first HumanEval prompts with lm-eval's stops."""
    task = build_task("humaneval", {})
    requests = [task.request(document, "raw") for document in task.documents()[:problems]]
    return [Generate(each.prompt, stops=UNTIL, max_bytes=4096) for each in requests if isinstance(each, Generate)]


def lm_eval_model(checkpoint: Checkpoint, rows: int) -> Any:
    """Return lm-eval's model around the weights that are loaded already."""
    from lm_eval.models.huggingface import HFLM  # `stops` and `agree` run without it

    return HFLM(pretrained=checkpoint.model, tokenizer=checkpoint.tokenizer, batch_size=rows)


def by_lm_eval(model: Any, prompts: Sequence[Generate], cap: int, options: dict[str, Any]) -> tuple[int, int]:
    """Return the useful bytes of all answers, and the rows summed over the steps that were run."""
    from lm_eval.api.instance import Instance

    row_steps = 0

    def count(_module: Any, _arguments: Any, named: dict[str, Any]) -> None:
        nonlocal row_steps
        rows, columns = named["input_ids"].shape
        row_steps += rows if columns == 1 else 0

    hook = model.model.register_forward_pre_hook(count, with_kwargs=True)
    settings = {"until": list(UNTIL), "max_gen_toks": cap, **options}
    instances = [
        Instance("generate_until", {}, (prompt.prompt, dict(settings)), index) for index, prompt in enumerate(prompts)
    ]
    answers = model.generate_until(instances, disable_tqdm=True)
    hook.remove()
    return sum(len(answer.encode()) for answer in answers), row_steps


def stops(chosen: argparse.Namespace) -> dict[str, Any]:
    """Time one step of matching for all rows."""
    from transformers import StopStringCriteria

    checkpoint = checkpoints.load(chosen.model)
    text = "".join(prompt.prompt for prompt in humaneval(164))
    ids = checkpoint.tokenbytes.encode(text).ids[: chosen.rows * 200].reshape(chosen.rows, 200)
    table = checkpoint.tokenbytes.table
    pieces = [[table[number] or b"" for number in column] for column in ids.T.tolist()]
    criteria = StopStringCriteria(checkpoint.tokenizer, list(SIX_STOPS))
    grown = [torch.tensor(ids[:, : at + 1].astype("int64")) for at in range(200)]
    criteria(grown[0], torch.zeros(1))
    ours, theirs = [], []
    for _ in range(5 * chosen.rounds):
        matchers = [StopMatcher(SIX_STOPS) for _ in range(chosen.rows)]
        began = time.perf_counter()
        for column in pieces:
            for matcher, piece in zip(matchers, column, strict=True):
                matcher.feed(piece)
        ours.append((time.perf_counter() - began) / 200)
        began = time.perf_counter()
        for seen in grown:
            criteria(seen, torch.zeros(1))
        theirs.append((time.perf_counter() - began) / 200)
    ms = {"engine": 1000 * min(ours), "transformers": 1000 * min(theirs)}
    print(f"{chosen.rows} rows x {len(SIX_STOPS)} stops, ms per step: {ms}")
    return {"ms_per_step": ms}


def agree(chosen: argparse.Namespace) -> dict[str, Any]:
    """Count greedy answers that equal those of ``generate``."""
    checkpoint = checkpoints.load(chosen.model, dtype=chosen.dtype or "float32")
    cap = chosen.max_tokens or 48
    requests = [replace(request, stops=()) for request in humaneval(chosen.problems or 50)]
    same = 0
    for answer in Generator(checkpoint, max_batch_rows=chosen.rows, max_tokens=cap).generate(requests):
        ids = checkpoint.tokenbytes.encode(requests[answer.index].prompt).ids.tolist()
        ids = ids if checkpoint.bos_id is None else [checkpoint.bos_id, *ids]
        output = checkpoint.model.generate(
            torch.tensor([ids]), do_sample=False, max_new_tokens=cap, eos_token_id=sorted(checkpoint.stop_ids)
        )
        same += output[0, len(ids) :].tolist() == list(answer.ids)
    print(f"equal to transformers' generate: {same} of {len(requests)}")
    return {"same": same, "of": len(requests)}


if __name__ == "__main__":
    run(main)
