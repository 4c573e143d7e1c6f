"""A byte student with n-gram inputs under the engine: rows that come and go, and scores of whole texts."""

import math
from typing import Any

import pytest
import torch
from engine_models import toy_checkpoint
from toy_tokenizers import TEXT, toy_tokenizer

from crosstok.distill.models.byte_ngrams import NgramTable, with_ngrams
from crosstok.distill.tokenizers.tokenbytes import TokenBytes
from crosstok.harness.generation.generator import Generator
from crosstok.harness.likelihood.rolling import Scorer
from crosstok.tasks.task import Generate, Rolling

PROMPTS = ["def mean(", "The sun was up before", "x", TEXT[:120], "class Stack:\n", "a b c d"]


@pytest.fixture(scope="module")
def student() -> Any:
    checkpoint = toy_checkpoint("byte", "llama")
    old, new = TokenBytes.from_tokenizer(toy_tokenizer("bpe")), checkpoint.tokenbytes
    width = checkpoint.model.get_input_embeddings().weight.shape[1]
    matrix = 0.5 * torch.randn(old.size, width, generator=torch.Generator().manual_seed(0))
    checkpoint.model = with_ngrams(checkpoint.model, NgramTable.of(old, matrix, new, new.size)).eval()
    return checkpoint


@torch.no_grad()
@pytest.mark.parametrize("rows", [1, 4])
def test_answers_are_those_of_a_plain_loop_for_every_number_of_rows(student: Any, rows: int) -> None:
    requests = [Generate(prompt, max_bytes=5 + 7 * place) for place, prompt in enumerate(PROMPTS)]
    answers = {answer.index: answer for answer in Generator(student, max_batch_rows=rows).generate(requests)}
    for index, request in enumerate(requests):
        ids = student.tokenbytes.encode(request.prompt).ids.tolist()
        ids = ids if student.bos_id is None else [student.bos_id, *ids]
        start = len(ids)
        while len(ids) < start + request.max_bytes:
            best = int(student.model(torch.tensor([ids])).logits[0, -1, : student.valid_rows].argmax())
            if best in student.stop_ids:
                break
            ids.append(best)
        expected = student.tokenbytes.decode(ids[start:])
        assert answers[index].data == expected[: len(answers[index].data)]
        assert len(answers[index].data) >= len(expected) - 3  # half a character at the end is left out


@torch.no_grad()
def test_a_text_is_scored_as_the_whole_of_it_read_at_once(student: Any) -> None:
    texts = [TEXT[:90], TEXT[100:400], "x"]
    requests = [Rolling(text, window_bytes=400, stride_bytes=400) for text in texts]
    scores = {score.index: score for score in Scorer(student, max_batch_tokens=500).rolling(requests)}
    for index, text in enumerate(texts):
        data = student.tokenbytes.encode(text).ids.tolist()
        first = student.tokenizer.convert_tokens_to_ids(scores[index].conditioned_on)
        ids = torch.tensor([[first, *data]])
        logs = student.model(ids).logits[0, :-1, : student.valid_rows].log_softmax(dim=-1)
        nats = -float(logs.gather(-1, ids[0, 1:, None]).sum())
        assert math.isclose(scores[index].nats, nats, rel_tol=1e-5)
