"""Ensembles of own tokens under our engine: the generator and the scorer take them like any model."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import tiny_model
from toy_tokenizers import TEXT, toy_tokenizer

from crosstok.distill.ensemble import save_ensemble
from crosstok.distill.models import checkpoints
from crosstok.harness.generation.generator import Generator
from crosstok.harness.likelihood.rolling import Scorer
from crosstok.tasks.task import Generate, Rolling


@pytest.fixture(params=["shared", "mined"])
def pair(tmp_path: Path, request: Any) -> Any:
    folders = []
    for seed, name in enumerate(("bpe", "bos" if request.param == "shared" else "spm")):
        tokenizer = toy_tokenizer(name)
        tiny_model(tokenizer, seed=seed).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        folders.append(tmp_path / name)
    return checkpoints.load(save_ensemble(tmp_path / "pair", folders, tokens=request.param))


def test_rows_that_come_and_go_answer_as_they_would_alone(pair: Any) -> None:
    requests = [
        Generate(prompt=TEXT[start : start + 90], max_bytes=20 + 7 * (start % 3)) for start in range(0, 500, 70)
    ]
    alone = [next(iter(Generator(pair, max_batch_rows=1).generate([request]))).data for request in requests]
    together = {one.index: one.data for one in Generator(pair, max_batch_rows=3).generate(requests)}
    assert [together[index] for index in range(len(requests))] == alone


def test_an_answer_counts_the_passes_of_both_members_and_one_pass_over_the_prompt(pair: Any) -> None:
    requests = [Generate(prompt=TEXT[start : start + 60], max_bytes=15 + start) for start in range(4)]
    generator = Generator(pair, max_batch_rows=1)
    before = sum(pair.model.passes)
    answers = list(generator.generate(requests))
    assert [answer.passes for answer in answers] == [2 * (1 + answer.steps) for answer in answers]
    assert all(answer.facts["passes"] == answer.passes for answer in answers)
    assert sum(answer.passes or 0 for answer in answers) == sum(pair.model.passes) - before, "rows alone share no pass"


def test_a_text_is_scored_as_step_by_step(pair: Any) -> None:
    text = TEXT[:150]
    answer = next(iter(Scorer(pair).rolling([Rolling(text, window_bytes=4096, stride_bytes=2048)])))
    ids = [pair.bos_id, *pair.tokenbytes.encode(text).ids.tolist()]
    with torch.inference_mode():
        scores = pair.model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    expected = -sum(float(scores[place, token]) for place, token in enumerate(ids[1:]))
    assert answer.bytes == len(text.encode())
    assert math.isclose(answer.nats, expected, rel_tol=1e-5)
