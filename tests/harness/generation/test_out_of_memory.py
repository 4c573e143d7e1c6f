"""A model that runs out of memory above some size: half as many, the same answers, counted and logged."""

import logging
from typing import Any

import pytest
import torch
from engine_models import scripted_checkpoint, spell, toy_checkpoint
from toy_tokenizers import TEXT

from crosstok.errors import UserError
from crosstok.harness.generation.generator import Generator
from crosstok.harness.runtime.memory import attempt, is_out_of_memory
from crosstok.tasks.task import Generate, Sampling

CPU = "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate"
WINDOWS = "[enforce fail] data. DefaultCPUAllocator: not enough memory: you tried to allocate 99 bytes."
REQUESTS = [
    Generate(TEXT[at : at + 40 + at % 3], max_bytes=90, sampling=Sampling(0.9 * (at % 2)), seeds=(at, at + 1))
    for at in range(0, 130, 13)
]


def limit(checkpoint: Any, *, prefill: int = 10**9, rows: int = 10**9, error: Exception | None = None) -> None:
    """Let passes over more than ``prefill`` tokens of prompts or more than ``rows`` rows fail."""

    def before(_module: Any, _arguments: Any, named: dict[str, torch.Tensor]) -> None:
        many, columns = named["input_ids"].shape
        if (columns > 1 and many * columns > prefill) or (columns == 1 and many > rows):
            raise error or RuntimeError(CPU)

    checkpoint.model.register_forward_pre_hook(before, with_kwargs=True)


def answers(generator: Generator) -> dict[tuple[int, int], bytes]:
    found = list(generator.generate(REQUESTS))
    assert len(found) == 2 * len(REQUESTS)
    return {(answer.index, answer.sample): answer.data for answer in found}


@pytest.mark.parametrize(
    ("limits", "error"),
    [
        ({"prefill": 150}, RuntimeError(WINDOWS)),
        ({"rows": 5}, torch.OutOfMemoryError("CUDA")),
        ({"rows": 1}, RuntimeError(CPU)),
        ({"prefill": 70, "rows": 3}, RuntimeError(CPU)),
    ],
)
def test_running_out_of_memory_halves_the_batch_and_changes_no_answer(
    limits: dict[str, int], error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    expected = answers(Generator(toy_checkpoint("byte"), max_tokens=10))
    checkpoint = toy_checkpoint("byte")
    limit(checkpoint, error=error, **limits)
    generator = Generator(checkpoint, max_tokens=10)
    with caplog.at_level(logging.WARNING):
        assert answers(generator) == expected
    assert generator.counts.out_of_memory == sum("Out of memory with" in line for line in caplog.messages) > 0
    assert generator.counts.wasted_row_steps == 0
    if "rows" in limits:
        assert generator.limits.rows <= limits["rows"]
    before = generator.counts.out_of_memory
    assert answers(generator) == expected
    assert generator.counts.out_of_memory == before, "what did not fit is not tried again"


def test_a_row_that_was_interrupted_goes_on_with_what_it_has_written() -> None:
    # The script refuses a row that forgot, repeated or skipped something.
    texts = {letter: "x" * (20 + number) for number, letter in enumerate("abcdefgh")}
    checkpoint = scripted_checkpoint({prompt: spell("byte", text) for prompt, text in texts.items()}, "byte")
    steps = 0

    def fail_at_times(_module: Any, _arguments: Any, named: dict[str, torch.Tensor]) -> None:
        nonlocal steps
        steps += 1
        if steps in (6, 15, 30):
            raise RuntimeError(CPU)

    checkpoint.model.register_forward_pre_hook(fail_at_times, with_kwargs=True)
    generator = Generator(checkpoint)
    found = {answer.prompt_text: answer for answer in generator.generate([Generate(prompt) for prompt in texts])}
    assert {prompt: answer.text for prompt, answer in found.items()} == texts
    assert all(answer.tokens == len(answer.text) for answer in found.values())
    assert generator.counts.out_of_memory == 3
    # Each is read once, and the eight, four and two that ran when memory was short once more, but for what waited.
    again = [(found[prompt].passes or 0) - found[prompt].steps - 1 for prompt in texts]
    assert sum(again) >= 8 + 4 + 2
    assert min(again) >= 1


def test_memory_that_does_not_suffice_for_one_answer_is_one_clear_line() -> None:
    for limits in ({"prefill": 3}, {"rows": 0}):
        checkpoint = toy_checkpoint("byte")
        limit(checkpoint, **limits)
        with pytest.raises(UserError, match="Out of memory with a single answer"):
            list(Generator(checkpoint).generate(REQUESTS))


def test_other_failures_are_not_taken_for_a_lack_of_memory() -> None:
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    checkpoint = toy_checkpoint("byte")
    limit(checkpoint, rows=2, error=RuntimeError("shapes"))
    with pytest.raises(RuntimeError, match="shapes"):
        list(Generator(checkpoint).generate(REQUESTS))


def test_an_attempt_hands_on_its_result() -> None:
    assert attempt(lambda: 3) == 3
