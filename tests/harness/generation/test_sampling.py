"""Sampling: the right distribution, the kept sets of transformers' own warpers, and nothing but the seed decides."""

import numpy as np
import pytest
import torch
from engine_models import toy_checkpoint
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare
from tiny_models import Shape, tiny_model
from toy_tokenizers import TEXT, toy_tokenizer
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from crosstok.distill.ensemble import EnsembleConfig, EnsembleForCausalLM
from crosstok.errors import UserError
from crosstok.harness.generation.generator import Generation, Generator
from crosstok.harness.generation.sampling import Uniforms, draw, keep, scale
from crosstok.tasks.task import Generate, Sampling

WARM = Sampling(temperature=1.0)
PROMPTS = ["def mean(", "The sun was up before", "x", TEXT[:150], "class Stack:\n"]


def warped(logits: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Return what transformers makes of the logits."""
    nothing = torch.zeros(len(logits), 1, dtype=torch.long)
    scores = TemperatureLogitsWarper(sampling.temperature)(nothing, logits)
    if sampling.top_k:
        scores = TopKLogitsWarper(sampling.top_k)(nothing, scores)
    if sampling.top_p < 1:
        scores = TopPLogitsWarper(sampling.top_p)(nothing, scores)
    return scores


@given(
    st.integers(0, 10_000),
    st.integers(2, 700),
    st.floats(0.1, 3.0),
    st.one_of(st.just(1.0), st.floats(0.01, 0.999)),
    st.one_of(st.just(0), st.integers(1, 800)),
)
def test_the_kept_tokens_and_their_probabilities_are_those_of_transformers(
    seed: int, size: int, temperature: float, top_p: float, top_k: int
) -> None:
    logits = 3 * torch.randn(3, size, generator=torch.Generator().manual_seed(seed))
    sampling = Sampling(temperature, top_p, top_k)
    ours, theirs = keep(scale(logits, sampling), sampling), warped(logits, sampling)
    assert torch.equal(ours.isfinite(), theirs.isfinite())
    torch.testing.assert_close(ours.softmax(-1), theirs.softmax(-1))


def test_draws_follow_the_distribution() -> None:
    logits = 1.5 * torch.randn(1, 40, generator=torch.Generator().manual_seed(3))
    sampling = Sampling(temperature=0.8, top_p=0.9)
    expected = keep(scale(logits, sampling), sampling).double().softmax(-1)[0].numpy()
    numbers = [Uniforms(seed).at(5) for seed in range(4000)]
    found = np.bincount(draw(logits.expand(4000, -1), [sampling] * 4000, numbers), minlength=40)
    assert not found[expected == 0].any()
    kept = expected > 0
    assert chisquare(found[kept], 4000 * expected[kept]).pvalue > 0.01


def test_consecutive_numbers_of_one_seed_are_uniform_too() -> None:
    uniforms = Uniforms(7)
    counts, _ = np.histogram([uniforms.at(position) for position in range(5000)], bins=20, range=(0, 1))
    assert chisquare(counts).pvalue > 0.01


def test_a_number_of_the_stream_is_the_same_however_often_and_in_whatever_order_it_is_asked_for() -> None:
    first, second = Uniforms(11), Uniforms(11)
    backwards = [first.at(position) for position in reversed(range(200))]
    assert [second.at(position) for position in range(200)] == backwards[::-1]
    assert first.at(3) != Uniforms(12).at(3)


def test_tokens_are_laid_out_in_the_order_of_their_ids() -> None:
    logits = torch.tensor([[0.1, 0.5, 0.4]]).log()
    numbers = [0.0, 0.099, 0.101, 0.599, 0.601, 0.9999999]
    assert draw(logits.expand(6, -1), [WARM] * 6, numbers) == [0, 0, 1, 1, 2, 2]


def test_a_number_at_the_very_end_never_draws_a_token_without_probability() -> None:
    logits = torch.tensor([[0.0, 1.0, -torch.inf, -torch.inf]])
    assert draw(logits, [WARM], [1 - 2**-53]) == [1]
    assert draw(logits, [Sampling(1.0, top_k=1)], [1 - 2**-53]) == [1]


@pytest.mark.parametrize(
    "sampling", [Sampling(1e-40), Sampling(1e-5), Sampling(1.0, top_k=1), Sampling(1.0, top_p=1e-9), Sampling()]
)
def test_a_distribution_without_room_for_chance_is_greedy(sampling: Sampling) -> None:
    logits = 100 * torch.randn(50, 300, generator=torch.Generator().manual_seed(0))
    assert draw(logits, [sampling] * 50, [0.999] * 50) == logits.argmax(-1).tolist()


def test_top_k_beyond_the_vocabulary_and_top_p_of_one_keep_everything() -> None:
    logits = torch.randn(2, 30)
    assert keep(logits, Sampling(1.0, top_p=1.0, top_k=31)).isfinite().all()


def test_a_flat_distribution_over_a_large_vocabulary_is_cut_where_it_should_be() -> None:
    logits = torch.arange(5000.0)[None] * -1e-4  # the first looks at the largest few do not reach top-p
    kept = int(keep(scale(logits, Sampling(1.0, 0.5)), Sampling(1.0, 0.5)).isfinite().sum())
    probabilities = logits.double().softmax(-1)[0]
    assert probabilities[:kept].sum() >= 0.5 > probabilities[: kept - 1].sum()


def test_greedy_and_sampled_rows_in_one_batch_do_not_touch_one_another() -> None:
    logits = torch.randn(4, 50, generator=torch.Generator().manual_seed(2))
    samplings = [Sampling(), WARM, Sampling(0.5, top_k=5), WARM]
    numbers = [0.9, 0.3, 0.6, 0.8]
    alone = [draw(logits[row : row + 1], samplings[row : row + 1], numbers[row : row + 1])[0] for row in range(4)]
    assert draw(logits, samplings, numbers) == alone


# --- whole answers ---


def answer_all(checkpoint: object, requests: list[Generate], **options: int) -> dict[tuple[int, int], Generation]:
    answers = list(Generator(checkpoint, max_tokens=25, **options).generate(requests))  # type: ignore[arg-type]
    found = {(answer.index, answer.sample): answer for answer in answers}
    assert len(found) == len(answers) == sum(len(request.seeds) for request in requests)
    return found


@pytest.mark.parametrize("shape", ["llama", "gpt2", "gemma3", "ensemble"])
def test_a_sample_depends_on_its_seed_and_not_on_rows_order_or_neighbours(shape: Shape) -> None:
    checkpoint = ensemble_checkpoint() if shape == "ensemble" else toy_checkpoint("bpe", shape)  # type: ignore[comparison-overlap]
    sampling = Sampling(temperature=0.7, top_p=0.95)
    requests = [
        Generate(prompt, max_bytes=200, sampling=sampling, seeds=tuple(range(10 * number, 10 * number + 5)))
        for number, prompt in enumerate(PROMPTS)
    ]
    wide = answer_all(checkpoint, requests, max_batch_rows=32)
    narrow = answer_all(checkpoint, requests[::-1], max_batch_rows=3, max_prefill_tokens=60)
    assert len({answer.data for answer in wide.values()}) > 15
    for (index, sample), answer in wide.items():
        assert narrow[len(requests) - 1 - index, sample].data == answer.data
    [alone] = answer_all(checkpoint, [Generate(PROMPTS[3], max_bytes=200, sampling=sampling, seeds=(32,))]).values()
    assert alone.data == wide[3, 2].data


def ensemble_checkpoint() -> object:
    tokenizer = toy_tokenizer("bpe")
    members = [tiny_model(tokenizer, shape, seed=seed) for seed, shape in enumerate(("llama", "gemma3"))]
    weights = [{"source": "", "weight": 1.0}, {"source": "", "weight": 3.0}]
    config = EnsembleConfig(members=weights, vocab_size=len(tokenizer), max_position_embeddings=512)
    return toy_checkpoint("bpe", model=EnsembleForCausalLM(config, members).eval())


def test_answers_of_a_whole_model_follow_its_distribution() -> None:
    checkpoint = toy_checkpoint("byte")
    checkpoint.model.resize_token_embeddings(checkpoint.tokenbytes.size + 40, mean_resizing=True)
    [prompt] = [checkpoint.tokenbytes.encode("def f").ids.tolist()]
    with torch.no_grad():
        logits = checkpoint.model(torch.tensor([prompt])).logits[0, -1, : checkpoint.valid_rows]
    expected = (logits.double() / 1.5).softmax(-1).numpy()
    request = Generate("def f", sampling=Sampling(1.5), seeds=tuple(range(3000)))
    first = np.zeros(len(expected))
    for answer in Generator(checkpoint, max_tokens=1, max_batch_rows=256).generate([request]):
        first[answer.ids[0]] += 1
    usual = expected > 5 / 3000
    found = [*first[usual], first[~usual].sum()]
    assert chisquare(found, 3000 * np.array([*expected[usual], expected[~usual].sum()])).pvalue > 0.01


@pytest.mark.parametrize("rows", [2, 7, 64])
def test_a_prompt_is_read_once_for_all_its_samples(rows: int) -> None:
    checkpoint = toy_checkpoint()
    requests = [Generate(p, max_bytes=60, sampling=WARM, seeds=tuple(range(9))) for p in PROMPTS]
    generator = Generator(checkpoint, max_batch_rows=rows, max_tokens=10)
    answers = list(generator.generate(requests))
    assert len(answers) == 45
    assert generator.counts.prompts_read == len(PROMPTS)
    assert generator.counts.prompt_tokens_read == sum(
        len(checkpoint.tokenbytes.encode(prompt).ids) for prompt in PROMPTS
    )
    assert generator.counts.wasted_row_steps == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"sampling": Sampling(-1.0)},
        {"sampling": Sampling(float("nan"))},
        {"sampling": Sampling(1.0, top_p=0.0)},
        {"sampling": Sampling(1.0, top_k=-1)},
        {"seeds": ()},
        {"seeds": (3, -1)},
    ],
)
def test_a_sampling_that_makes_no_sense_is_refused_before_anything_is_read(wrong: dict[str, object]) -> None:
    generator = Generator(toy_checkpoint())
    with pytest.raises(UserError):
        list(generator.generate([Generate("fine"), Generate("a", **wrong)]))  # type: ignore[arg-type]
    assert generator.counts.prompts_read == 0
