"""Windows, and scores against plain computations that share no code with the scorer."""

import logging
import math
from typing import Any

import numpy as np
import pytest
import torch
from engine_models import toy_checkpoint
from hypothesis import given
from hypothesis import strategies as st
from toy_tokenizers import BUILDERS, TEXT, toy_tokenizer

from crosstok.distill.tokenizers.roles import Roles
from crosstok.distill.tokenizers.tokenbytes import TokenBytes
from crosstok.errors import UserError
from crosstok.harness.likelihood.rolling import RollingScore, Scorer, cut_windows
from crosstok.tasks.task import Rolling

SHAPES = ("llama", "gpt2", "gemma3")


def score_all(checkpoint: Any, requests: list[Rolling], **options: Any) -> list[RollingScore]:
    answers = list(Scorer(checkpoint, **options).rolling(requests))
    return sorted(answers, key=lambda answer: answer.index)


def plain_nats(checkpoint: Any, text: str, first: int) -> float:
    """The whole text in one pass, straight from the definition, in double precision."""
    ids = [first, *checkpoint.tokenbytes.encode(text).ids.tolist()]
    with torch.no_grad():
        logits = checkpoint.model(torch.tensor([ids])).logits[0].double()
    logs = torch.log_softmax(logits[:, : checkpoint.valid_rows], dim=-1)
    return -sum(logs[position, number].item() for position, number in enumerate(ids[1:]))


# --- windows ---


@given(
    st.text("ab é€𝄞\n", min_size=1, max_size=300),
    st.integers(1, 60),
    st.integers(1, 60),
    st.sampled_from(["byte", "bpe", "superword"]),
)
def test_windows_score_every_byte_once_with_the_promised_context(text: str, one: int, two: int, name: str) -> None:
    window, stride = max(one, two), min(one, two)
    data = text.encode()
    ends = TokenBytes.from_tokenizer(toy_tokenizer(name)).encode(text).ends
    starts = np.concatenate([[0], ends[:-1]])
    cut = cut_windows(data, ends, window, stride)
    assert [part.scored for part in cut[1:]] == [part.end for part in cut[:-1]]
    assert (cut[0].first, cut[0].scored, cut[-1].end) == (0, 0, len(ends))
    for part in cut:
        assert part.first <= part.scored < part.end
        assert data[starts[part.first]] & 0xC0 != 0x80, "a window begins inside a character"
        for token in range(part.scored, part.end):
            assert starts[token] - starts[part.first] >= min(window - stride, starts[token])


def test_windows_of_a_byte_tokenizer_are_exactly_as_long_as_asked() -> None:
    ends = np.arange(1, 11)
    cut = cut_windows(b"abcdefghij", ends, 4, 2)
    assert [(part.first, part.scored, part.end) for part in cut] == [(0, 0, 4), (2, 4, 6), (4, 6, 8), (6, 8, 10)]


@pytest.mark.parametrize(("window", "stride"), [(4, 0), (4, 5), (0, 0)])
def test_a_stride_beyond_its_window_is_refused(window: int, stride: int) -> None:
    with pytest.raises(UserError, match="stride_bytes"):
        cut_windows(b"abc", np.arange(1, 4), window, stride)


# --- scores ---


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_one_window_gives_the_sum_over_the_definition(name: str, shape: str) -> None:
    checkpoint = toy_checkpoint(name, shape)
    text = TEXT[:300]
    [answer] = score_all(checkpoint, [Rolling(text, 4096, 1024)])
    assert answer.nats == pytest.approx(plain_nats(checkpoint, text, checkpoint.tokenizer.eos_token_id), rel=1e-5)
    assert (answer.bytes, answer.windows) == (len(text.encode()), 1)
    assert answer.min_context_bytes is None, "no byte of a short text has a whole window - stride before it"


@pytest.mark.parametrize("shape", SHAPES)
def test_many_windows_give_the_sum_over_windows_scored_one_by_one(shape: str) -> None:
    checkpoint = toy_checkpoint("bpe", shape, with_bos=True)
    text = TEXT[:700]
    encoding = checkpoint.tokenbytes.encode(text)
    expected = 0.0
    for window in cut_windows(text.encode(), encoding.ends, 128, 64):
        ids = [checkpoint.bos_id, *encoding.ids[window.first : window.end].tolist()]
        with torch.no_grad():
            logs = torch.log_softmax(checkpoint.model(torch.tensor([ids])).logits[0].double(), dim=-1)
        for position in range(window.scored - window.first, window.end - window.first):
            expected -= logs[position, ids[position + 1]].item()
    [answer] = score_all(checkpoint, [Rolling(text, 128, 64)])
    assert answer.nats == pytest.approx(expected, rel=1e-5)
    assert answer.windows > 8
    assert answer.min_context_bytes is not None
    assert answer.min_context_bytes >= 64
    assert answer.mean_context_bytes >= 64


@pytest.mark.parametrize("shape", SHAPES)
def test_a_score_does_not_depend_on_what_else_is_in_the_batch(shape: str) -> None:
    checkpoint = toy_checkpoint("bpe", shape)
    requests = [Rolling(line, 64, 32) for line in TEXT.splitlines() if line]
    together = score_all(checkpoint, requests)
    alone = [score_all(checkpoint, [request], max_batch_tokens=1)[0] for request in requests]
    assert [answer.index for answer in together] == list(range(len(requests)))
    for left, right in zip(together, alone, strict=True):
        assert left.nats == pytest.approx(right.nats, rel=1e-5)
        assert (left.bytes, left.tokens, left.windows) == (right.bytes, right.tokens, right.windows)


def test_an_empty_text_has_no_nats_and_no_bytes() -> None:
    [answer] = score_all(toy_checkpoint(), [Rolling("")])
    assert (answer.nats, answer.bytes, answer.tokens, answer.refused) == (0.0, 0, 0, "")


def test_a_text_that_the_tokenizer_cannot_write_is_refused_and_the_others_are_scored() -> None:
    checkpoint = toy_checkpoint("spm")
    bad, good = score_all(checkpoint, [Rolling("a literal ▁ becomes a space"), Rolling("fine")])
    assert "does not survive the tokenizer" in bad.refused
    assert (bad.nats, bad.bytes) == (0.0, 0)
    assert (good.refused, good.bytes) == ("", 4)


def test_a_literal_special_token_in_the_text_is_scored_as_text() -> None:
    [answer] = score_all(toy_checkpoint(), [Rolling("a <eos> b")])
    assert answer.bytes == 9
    assert answer.tokens > 3


def test_a_window_longer_than_the_model_reads_is_an_error_before_anything_is_scored() -> None:
    checkpoint = toy_checkpoint("byte", positions=64)
    with pytest.raises(UserError, match="has 101 tokens, but the context of the model is 64"):
        list(Scorer(checkpoint).rolling([Rolling("short"), Rolling("x" * 200, 100, 50)]))


def test_a_tokenizer_without_any_token_to_begin_with_is_an_error() -> None:
    checkpoint = toy_checkpoint()
    checkpoint.roles = Roles()
    with pytest.raises(UserError, match="first byte"):
        Scorer(checkpoint)


class OutOfMemoryAbove(torch.nn.Module):
    """Fail like the CPU's allocator does when more than ``rows`` windows come at once."""

    def __init__(self, inner: torch.nn.Module, rows: int) -> None:
        super().__init__()
        self.inner = inner
        self.rows = rows
        self.largest = 0

    def forward(self, input_ids: torch.Tensor, **arguments: Any) -> Any:
        if input_ids.shape[0] > self.rows:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes.")
        self.largest = max(self.largest, input_ids.shape[0])
        return self.inner(input_ids=input_ids, **arguments)


def test_out_of_memory_halves_the_batch_and_changes_no_score(caplog: pytest.LogCaptureFixture) -> None:
    requests = [Rolling(line, 64, 32) for line in TEXT.splitlines() if line]
    expected = score_all(toy_checkpoint(), requests)
    checkpoint = toy_checkpoint()
    checkpoint.model.model = OutOfMemoryAbove(checkpoint.model.model, rows=3)
    with caplog.at_level(logging.WARNING):
        found = score_all(checkpoint, requests)
    assert [answer.nats for answer in found] == pytest.approx([answer.nats for answer in expected], rel=1e-5)
    assert checkpoint.model.model.largest <= 3
    assert "Out of memory" in caplog.text


def test_an_error_that_is_not_about_memory_is_not_swallowed() -> None:
    checkpoint = toy_checkpoint()
    scorer = Scorer(checkpoint)

    def broken(**_: Any) -> None:
        raise RuntimeError("something else")

    checkpoint.model.model.forward = broken
    with pytest.raises(RuntimeError, match="something else"):
        list(scorer.rolling([Rolling("abc")]))


def test_a_model_whose_head_does_more_than_multiply_is_scored_from_its_own_logits() -> None:
    checkpoint = toy_checkpoint()
    text = TEXT[:200]
    plain = plain_nats(checkpoint, text, checkpoint.tokenizer.eos_token_id)
    checkpoint.model.register_forward_hook(lambda _module, _arguments, output: _scale(output, 0.5))
    [answer] = score_all(checkpoint, [Rolling(text)])
    assert answer.nats == pytest.approx(plain_nats(checkpoint, text, checkpoint.tokenizer.eos_token_id), rel=1e-5)
    assert not math.isclose(answer.nats, plain, rel_tol=1e-2)


def _scale(output: Any, factor: float) -> Any:
    output.logits = output.logits * factor
    return output


@pytest.mark.parametrize("elements", [1 << 24, 1000, 1])
def test_the_size_of_a_chunk_of_logits_changes_no_score(monkeypatch: pytest.MonkeyPatch, elements: int) -> None:
    checkpoint = toy_checkpoint("bpe", "gemma3")
    monkeypatch.setattr("crosstok.harness.likelihood.next_token.LOGIT_ELEMENTS", elements)
    monkeypatch.setattr("crosstok.harness.likelihood.next_token._IN_CACHE", elements // 2)
    [answer] = score_all(checkpoint, [Rolling(TEXT[:200])])
    assert answer.nats == pytest.approx(plain_nats(checkpoint, TEXT[:200], checkpoint.tokenizer.eos_token_id), rel=1e-5)


def test_gemma_logit_capping_is_applied() -> None:
    checkpoint = toy_checkpoint("bpe", "gemma3")
    checkpoint.model.config.final_logit_softcapping = 2.0
    text = TEXT[:200]
    assert Scorer(checkpoint)._next.has_head
    [answer] = score_all(checkpoint, [Rolling(text)])
    assert answer.nats == pytest.approx(plain_nats(checkpoint, text, checkpoint.tokenizer.eos_token_id), rel=1e-5)
