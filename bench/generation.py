"""Greedy HumanEval: useful bytes per second of the engine beside transformers' own batched ``generate``.

    python bench/generation.py [--model SOURCE] [--problems 24] [--rows 8] [--max-bytes 300] [--dtype float32]

Both get the same prompts, stop strings and weights in one process, one after the other. ``generate`` is given its
documented best for this: prompts sorted by length, left padding, its own stop strings, a cap of as many tokens as the
engine's longest answer. Useful bytes are those before the stop. Read the ratio, not the absolute numbers.
"""

import argparse
import time

import torch

from distill import checkpoints
from harness.generation import Generation, Generator
from harness.stops import StopMatcher
from tasks.registry import build_task
from tasks.task import Generate


def main() -> None:
    """Run both sides and print their figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="wheel:smollm2-135m-instruct")
    parser.add_argument("--problems", type=int, default=24)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--max-bytes", type=int, default=300)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    checkpoint = checkpoints.load(chosen.model, dtype=chosen.dtype)
    task = build_task("humaneval", {"limit": chosen.problems, "max_bytes": chosen.max_bytes})
    requests = [task.request(document, "raw") for document in task.documents()]
    prompts = [request for request in requests if isinstance(request, Generate)]

    generator = Generator(checkpoint, max_batch_rows=chosen.rows)
    began = time.perf_counter()
    answers = list(generator.generate(prompts))
    ours = time.perf_counter() - began
    useful = sum(len(answer.data) for answer in answers)
    print(
        f"engine:       {useful / ours:7.1f} bytes/s  ({useful} bytes, {ours:.1f} s, "
        f"{generator.row_steps} row-steps, {generator.wasted_row_steps} of them wasted)"
    )
    began = time.perf_counter()
    their_bytes, row_steps, wasted, same = by_transformers(checkpoint, prompts, answers, chosen.rows)
    theirs = time.perf_counter() - began
    print(
        f"transformers: {their_bytes / theirs:7.1f} bytes/s  ({their_bytes} bytes, {theirs:.1f} s, "
        f"{row_steps} row-steps, {wasted} of them wasted)"
    )
    ratio = (useful / ours) / (their_bytes / theirs)
    print(f"ratio: {ratio:.2f}; answers that are the same: {same} of {len(prompts)}")


def by_transformers(
    checkpoint: checkpoints.Checkpoint, prompts: list[Generate], answers: list[Generation], rows: int
) -> tuple[int, int, int, int]:
    """Return useful bytes, row-steps, wasted row-steps and the number of answers equal to the engine's."""
    tokenizer, table = checkpoint.tokenizer, checkpoint.tokenbytes.table
    tokenizer.padding_side = "left"
    known = {answer.index: answer.data for answer in answers}
    cap = max(answer.steps for answer in answers) + 1
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index].prompt))
    useful = row_steps = wasted = same = 0
    for at in range(0, len(order), rows):
        batch = order[at : at + rows]
        inputs = tokenizer([prompts[index].prompt for index in batch], return_tensors="pt", padding=True)
        output = checkpoint.model.generate(
            **inputs,
            do_sample=False,
            max_new_tokens=cap,
            stop_strings=list(prompts[batch[0]].stops),
            tokenizer=tokenizer,
            eos_token_id=sorted(checkpoint.stop_ids),
            pad_token_id=tokenizer.pad_token_id,
        )
        new = output[:, inputs["input_ids"].shape[1] :]
        row_steps += new.numel() - len(batch)
        for index, ids in zip(batch, new.tolist(), strict=True):
            data, tokens = _before_stop(ids, prompts[index], checkpoint, table)
            useful += len(data)
            wasted += len(ids) - tokens
            same += data == known[index]
    return useful, row_steps, wasted, same


def _before_stop(
    ids: list[int], request: Generate, checkpoint: checkpoints.Checkpoint, table: tuple[bytes | None, ...]
) -> tuple[bytes, int]:
    """Return the answer's bytes up to stop, end or budget, and the tokens that it took."""
    matcher = StopMatcher(request.stops)
    data = b""
    for count, number in enumerate(ids, start=1):
        if number in checkpoint.stop_ids:
            return data, count
        piece = table[number] or b""
        match = matcher.feed(piece)
        data += piece
        if match is not None:
            return data[: match.start], count
        if len(data) >= request.max_bytes:
            return data[: request.max_bytes], count
    return data, len(ids)


if __name__ == "__main__":
    main()
