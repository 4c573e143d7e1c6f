"""Continuations: borders, shared prefixes, batches, against plain computations that share no code with the scorer."""

import functools
import logging
import math
import weakref
from typing import Any

import pytest
import torch
from engine_models import toy_checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import tiny_model
from toy_tokenizers import BUILDERS, TEXT, toy_tokenizer

from crosstok.distill.ensemble import EnsembleConfig, EnsembleForCausalLM
from crosstok.errors import UserError
from crosstok.harness.likelihood.continuations import ContinuationScore
from crosstok.harness.likelihood.rolling import Scorer
from crosstok.tasks.task import Continuations, Rolling

SHAPES = ("llama", "gpt2", "gemma3")
FEW_SHOT = TEXT[:400]
QUESTIONS = [
    Continuations(FEW_SHOT + f"Question {number}: what is {number} + {number}?\nAnswer:", (" two", " four", " twelve"))
    for number in range(8)
]
rolled = functools.cache(toy_checkpoint)


def ensemble(*shapes: str) -> Any:
    tokenizer = toy_tokenizer("bpe")
    members = [tiny_model(tokenizer, shape, seed=seed) for seed, shape in enumerate(shapes)]  # type: ignore[arg-type]
    weights = [{"source": "", "weight": 1.0 + number} for number in range(len(members))]
    config = EnsembleConfig(members=weights, vocab_size=len(tokenizer), max_position_embeddings=512)
    return toy_checkpoint("bpe", model=EnsembleForCausalLM(config, members).eval())


def score_all(checkpoint: Any, requests: list[Continuations], **options: Any) -> list[ContinuationScore]:
    answers = list(Scorer(checkpoint, **options).continuations(requests))
    return sorted(answers, key=lambda answer: answer.index)


def logs(checkpoint: Any, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        logits = checkpoint.model(torch.tensor([ids])).logits[0, :, : checkpoint.valid_rows].double()
    return torch.log_softmax(logits, dim=-1)


def plain_nats(checkpoint: Any, text: str, border: int) -> float:
    """The tokens of ``text`` that end behind byte ``border``, in one pass, from the definition."""
    encoding = checkpoint.tokenbytes.encode(text)
    ids, ends = encoding.ids.tolist(), encoding.ends.tolist()
    scored = sum(end <= border for end in ends) if border else 0
    opening = [checkpoint.bos_id] if checkpoint.bos_id is not None else [] if scored else [checkpoint.roles.end_of_text]
    table = logs(checkpoint, [*opening, *ids])
    return -sum(table[len(opening) + number - 1, ids[number]].item() for number in range(scored, len(ids)))


# --- the border ---


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_a_border_between_two_tokens_gives_the_sum_over_the_definition(name: str, shape: str) -> None:
    checkpoint = toy_checkpoint(name, shape)
    context, choices = "def mean(values):\n", ("    total = 0\n", "    return 1\n", "€")
    [answer] = score_all(checkpoint, [Continuations(context, choices)])
    border = len(context.encode()) - answer.straddled_bytes
    for choice, nats in zip(choices, answer.likelihoods.nats, strict=True):
        assert nats == pytest.approx(plain_nats(checkpoint, context + choice, border), rel=1e-4)
    if name not in ("superword", "spm", "unigram"):
        assert answer.straddled_bytes == 0


def test_a_model_trained_with_a_bos_reads_it_first() -> None:
    checkpoint = toy_checkpoint("bpe", with_bos=True)
    [answer] = score_all(checkpoint, [Continuations("return", (" total",))])
    assert answer.likelihoods.nats[0] == pytest.approx(plain_nats(checkpoint, "return total", 6), rel=1e-4)


def test_an_empty_context_is_the_special_token_that_opens_windows() -> None:
    checkpoint = toy_checkpoint()
    [answer] = score_all(checkpoint, [Continuations("", ("total",))])
    assert answer.likelihoods.nats[0] == pytest.approx(plain_nats(checkpoint, "total", 0), rel=1e-4)


def test_museum_01_every_choice_is_charged_from_the_same_byte_on() -> None:
    """ "return val" + "ues" ends in one token, "return val" + "id" does not: both are charged for the same bytes."""
    checkpoint = toy_checkpoint("superword")
    boundaries = [checkpoint.tokenbytes.encode("return val" + choice).ends.tolist() for choice in ("ues", "id")]
    expected = max(set(boundaries[0]) & set(boundaries[1]) & set(range(11)), default=0)
    [answer] = score_all(checkpoint, [Continuations("return val", ("ues", "id"))])
    assert answer.straddled_bytes == 10 - expected
    assert answer.straddled_bytes > 0
    for choice, nats in zip(("ues", "id"), answer.likelihoods.nats, strict=True):
        assert nats == pytest.approx(plain_nats(checkpoint, "return val" + choice, expected), rel=1e-4)


@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_museum_02_a_continuation_that_the_border_token_swallows_is_scored(name: str) -> None:
    [answer] = score_all(toy_checkpoint(name), [Continuations("return val", ("ues",))])
    assert math.isfinite(answer.likelihoods.nats[0])
    assert answer.likelihoods.nats[0] > 0
    assert answer.tokens[0] >= 1


@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_museum_03_the_blank_in_front_of_a_continuation_is_charged(name: str) -> None:
    [answer] = score_all(toy_checkpoint(name), [Continuations("the cart and", (" one",))])
    assert answer.bytes == (4,)
    assert answer.straddled_bytes == 12 - max(
        end for end in [0, *toy_checkpoint(name).tokenbytes.encode("the cart and one").ends.tolist()] if end <= 12
    )


@given(st.text("ab \n.ée", min_size=1, max_size=40), st.integers(0, 40), st.sampled_from(sorted(BUILDERS)))
@settings(max_examples=30)
def test_continuations_at_any_split_add_up_to_the_whole_text(text: str, at: int, name: str) -> None:
    """No token is charged twice or dropped: -log p(text) = that of the charged part + that of what stands before it."""
    checkpoint = rolled(name)
    at = min(at, len(text))
    whole = score_all(checkpoint, [Continuations("", (text,))])[0]
    part = score_all(checkpoint, [Continuations(text[:at], (text[at:],))])[0]
    if whole.refused or part.refused:
        assert bool(whole.refused) == bool(part.refused)
        return
    border = part.context_bytes - part.straddled_bytes
    assert part.tokens[0] == sum(end > border for end in checkpoint.tokenbytes.encode(text).ends) if border else True


# --- exact ---


def brute_force(checkpoint: Any, text: str, opening: list[int]) -> float:
    """log P(a text that begins with ``text``), over every sequence of tokens that the tokenizer itself would write."""
    data, tokens = text.encode(), checkpoint.tokenbytes
    total = -math.inf

    def visit(ids: list[int], written: bytes, log: float) -> None:
        nonlocal total
        table = logs(checkpoint, [*opening, *ids])[-1]
        for number, piece in enumerate(tokens.table):
            if not piece:
                continue
            longer = written + piece
            if longer.startswith(data):
                if canonical(longer, [*ids, number]):
                    total = torch.logaddexp(torch.tensor(total), log + table[number]).item()
            elif data.startswith(longer):
                visit([*ids, number], longer, log + table[number].item())

    def canonical(written: bytes, ids: list[int]) -> bool:
        try:
            return bool(tokens.encode(written.decode()).ids.tolist() == ids)
        except UnicodeDecodeError:
            return True

    visit([], b"", 0.0)
    return total


@given(st.text("ten r", max_size=4), st.text("alu s", min_size=1, max_size=3))
@settings(max_examples=12)
def test_exact_scores_equal_a_brute_force_marginal(context: str, continuation: str) -> None:
    checkpoint = rolled("bpe", with_bos=True)
    [answer] = score_all(checkpoint, [Continuations(context, (continuation,), exact=True)])
    opening = [checkpoint.bos_id]
    expected = brute_force(checkpoint, context + continuation, opening)
    expected -= brute_force(checkpoint, context, opening) if context else 0.0
    assert answer.likelihoods.nats[0] == pytest.approx(-expected, rel=1e-3, abs=1e-3)


def test_exact_scores_of_a_byte_tokenizer_are_those_of_its_one_encoding() -> None:
    checkpoint = rolled("byte", with_bos=True)
    choices = tuple(chr(number) for number in range(128))
    [answer] = score_all(checkpoint, [Continuations("return", choices, exact=True)])
    table = logs(checkpoint, [checkpoint.bos_id, *b"return"])[-1]
    assert answer.likelihoods.nats == pytest.approx([-table[ord(choice)].item() for choice in choices], abs=1e-3)


# --- sharing ---


@pytest.mark.parametrize(
    "checkpoint",
    [*(toy_checkpoint("bpe", shape) for shape in SHAPES), ensemble("llama", "gpt2"), ensemble("gemma3", "llama")],
    ids=[*SHAPES, "llama+gpt2", "gemma3+llama"],
)
@pytest.mark.parametrize("options", [{}, {"max_batch_tokens": 200}], ids=["one batch", "small batches"])
def test_shared_prefixes_change_no_score(checkpoint: Any, options: dict[str, int]) -> None:
    found = score_all(checkpoint, QUESTIONS, **options)
    assert all(answer.unshared == "" for answer in found)
    assert all(answer.tokens_shared > 100 for answer in found)
    for request, answer in zip(QUESTIONS, found, strict=True):
        for choice, nats in zip(request.continuations, answer.likelihoods.nats, strict=True):
            expected = plain_nats(checkpoint, request.context + choice, len(request.context))
            assert nats == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", ["superword", "unigram", "spm"])
def test_a_prefix_is_shared_up_to_the_last_common_id_and_not_to_the_last_common_byte(name: str) -> None:
    checkpoint = toy_checkpoint(name)
    requests = [Continuations(TEXT[:300] + f" the s{end}", (" x", " yy")) for end in ("un", "izes", "tack", "econd")]
    for request, answer in zip(requests, score_all(checkpoint, requests, max_batch_tokens=64), strict=True):
        for choice, nats in zip(request.continuations, answer.likelihoods.nats, strict=True):
            border = answer.context_bytes - answer.straddled_bytes
            assert nats == pytest.approx(plain_nats(checkpoint, request.context + choice, border), rel=1e-4)


def test_a_question_is_read_once_for_all_its_choices() -> None:
    checkpoint = toy_checkpoint()
    request = Continuations(TEXT[:200], (" a", " b", " c", " d"))
    [answer] = score_all(checkpoint, [request])
    context = len(checkpoint.tokenbytes.encode(TEXT[:200]).ids)
    assert answer.tokens_read <= context + sum(answer.tokens)


def test_a_model_that_ignores_the_mask_is_scored_plainly_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    expected = score_all(toy_checkpoint(), QUESTIONS)
    checkpoint = toy_checkpoint()
    inner = checkpoint.model.model.forward

    def forward(*args: Any, attention_mask: Any = None, **named: Any) -> Any:
        if attention_mask is not None and attention_mask.ndim == 4:
            attention_mask = None
        return inner(*args, attention_mask=attention_mask, **named)

    checkpoint.model.model.forward = forward
    with caplog.at_level(logging.WARNING):
        found = score_all(checkpoint, QUESTIONS)
    assert "shared tokens give different hidden states" in found[0].facts["unshared"]
    assert "Prefixes are not shared" in caplog.text
    for one, other in zip(expected, found, strict=True):
        assert one.likelihoods.nats == pytest.approx(other.likelihoods.nats, rel=1e-4)


def test_out_of_memory_halves_batches_and_then_questions_and_changes_no_score(
    caplog: pytest.LogCaptureFixture,
) -> None:
    expected = score_all(toy_checkpoint(), QUESTIONS)
    checkpoint = toy_checkpoint()
    scorer = Scorer(checkpoint)
    inner = checkpoint.model.model.forward
    assert scorer._continuations._trees.unshareable == ""

    def forward(input_ids: torch.Tensor, **named: Any) -> Any:
        if input_ids.shape[0] > 2 or (input_ids.shape[0] == 1 and 20 < input_ids.shape[1] < 100):
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes.")
        return inner(input_ids=input_ids, **named)

    checkpoint.model.model.forward = forward
    with caplog.at_level(logging.WARNING):
        found = sorted(scorer.continuations(QUESTIONS), key=lambda answer: answer.index)
    assert "Out of memory" in caplog.text
    for one, other in zip(expected, found, strict=True):
        assert one.likelihoods.nats == pytest.approx(other.likelihoods.nats, rel=1e-4)


ALLOCATOR = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes."


def test_a_prefix_that_does_not_fit_is_read_with_every_question(caplog: pytest.LogCaptureFixture) -> None:
    expected = score_all(toy_checkpoint(), QUESTIONS)
    assert min(answer.tokens_shared for answer in expected) > 0
    checkpoint = toy_checkpoint()
    scorer = Scorer(checkpoint)
    inner = checkpoint.model.model.forward
    assert scorer._continuations._trees.unshareable == ""

    def forward(**named: Any) -> Any:
        if named.get("use_cache"):
            raise RuntimeError(ALLOCATOR)
        return inner(**named)

    checkpoint.model.model.forward = forward
    with caplog.at_level(logging.WARNING):
        found = sorted(scorer.continuations(QUESTIONS), key=lambda answer: answer.index)
    assert "processing it with every question" in caplog.text
    for one, other in zip(expected, found, strict=True):
        assert other.tokens_shared == 0
        assert one.likelihoods.nats == pytest.approx(other.likelihoods.nats, rel=1e-4)


def test_memory_that_does_not_suffice_for_one_text_is_one_clear_line() -> None:
    checkpoint = toy_checkpoint()
    scorer = Scorer(checkpoint)
    assert scorer._continuations._trees.unshareable == ""

    def forward(**_: Any) -> Any:
        raise RuntimeError(ALLOCATOR)

    checkpoint.model.model.forward = forward
    with pytest.raises(UserError, match=r"Out of memory with a single text of \d+ tokens. Load the model in bfloat16"):
        list(scorer.continuations(QUESTIONS[:1]))
    with pytest.raises(UserError, match=r"Out of memory with a single window of \d+ tokens.*window_bytes"):
        list(scorer.rolling([Rolling(TEXT[:500], 100, 100)]))


# --- requests ---


def test_an_unconditional_context_is_scored_beside_and_once_for_equal_choices() -> None:
    checkpoint = toy_checkpoint()
    requests = [Continuations(f"Question {n}:", (" yes", " no"), unconditional="Answer:") for n in range(3)]
    [alone] = score_all(checkpoint, [Continuations("Answer:", (" yes", " no"))])
    for answer in score_all(checkpoint, requests):
        assert answer.likelihoods.unconditional == pytest.approx(alone.likelihoods.nats, rel=1e-4)


def test_greedy_says_whether_the_model_would_write_the_continuation() -> None:
    checkpoint = toy_checkpoint()
    ids = checkpoint.tokenbytes.encode("return").ids.tolist()
    best = int(logs(checkpoint, ids)[-1].argmax())
    likely = (checkpoint.tokenbytes.table[best] or b"").decode(errors="replace")
    [answer] = score_all(checkpoint, [Continuations("return", (likely, likely + "zqzq"))])
    if answer.tokens[0] == 1:
        assert answer.likelihoods.greedy[0]
    assert not answer.likelihoods.greedy[1]


def test_a_text_that_cannot_be_written_is_refused_and_the_others_are_scored() -> None:
    bad, good = score_all(toy_checkpoint("spm"), [Continuations("a ▁ b", (" c",)), Continuations("a", (" c",))])
    assert "does not survive the tokenizer" in bad.refused
    assert bad.likelihoods.nats == ()
    assert not good.refused


def test_a_context_longer_than_the_model_loses_its_beginning_for_all_choices_alike() -> None:
    checkpoint = toy_checkpoint("byte", positions=64)
    [answer] = score_all(checkpoint, [Continuations("x" * 100 + "abc", ("d", "efgh"))])
    assert answer.cut_bytes == 103 + 4 - 63
    kept = ("x" * 100 + "abc")[answer.cut_bytes :]
    for choice, nats in zip(("d", "efgh"), answer.likelihoods.nats, strict=True):
        assert nats == pytest.approx(plain_nats(checkpoint, kept + choice, len(kept)), rel=1e-4)


def test_a_continuation_longer_than_the_model_is_refused() -> None:
    [answer] = score_all(toy_checkpoint("byte", positions=64), [Continuations("a", ("b" * 80,))])
    assert "64 tokens" in answer.refused


def test_empty_continuations_cost_nothing() -> None:
    [answer] = score_all(toy_checkpoint(), [Continuations("a", ("",))])
    assert answer.likelihoods.nats == (0.0,)


class LiveTensors(torch.utils._python_dispatch.TorchDispatchMode):
    """Count the bytes of tensors that are alive at once, whoever made them."""

    def __init__(self) -> None:
        super().__init__()
        self.live: dict[int, int] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                key = storage._cdata
                if key not in self.live:
                    self.live[key] = storage.nbytes()
                    weakref.finalize(storage, self.live.pop, key, None)
        self.peak = max(self.peak, sum(self.live.values()))
        return result


def test_peak_memory_does_not_grow_with_the_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crosstok.harness.likelihood.next_token.LOGIT_ELEMENTS", 1 << 20)
    peaks = []
    for rows in (32_000, 262_000):
        checkpoint = toy_checkpoint("byte", width=16, rows=rows)
        checkpoint.valid_rows = rows
        scorer = Scorer(checkpoint)
        assert scorer._next.has_head
        assert scorer._continuations._trees.unshareable == ""
        with LiveTensors() as live:
            list(scorer.continuations([Continuations(TEXT[:100], (TEXT[100:200], TEXT[300:400]))]))
        peaks.append(live.peak)
    assert peaks[0] > 4 * (1 << 20)  # a chunk of logits is what decides it
    assert peaks[1] < 1.2 * peaks[0]
