"""Intervals cover what they promise, tests find what is there and nothing else; hand values and properties."""

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from crosstok.results.compare import statistics
from crosstok.results.compare.statistics import (
    detectable_fraction,
    fraction,
    holm,
    matched_odds,
    paired_fractions,
    paired_ratios,
    pass_at_k,
    ratio,
    relative_change,
    resampled_fraction,
    wilson,
)

OUTCOMES = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60)


def test_wilson_by_hand() -> None:
    # 8 of 164, z = 1.959964: centre (0.0487805 + 3.841459/328) / (1 + 3.841459/164) and half-width likewise
    low, high = wilson(8, 164)
    assert float(low) == pytest.approx(0.0249, abs=5e-5)
    assert float(high) == pytest.approx(0.0933, abs=5e-5)


@given(n=st.integers(1, 500), data=st.data())
def test_wilson_agrees_with_scipy(n: int, data: st.DataObject) -> None:
    passes = data.draw(st.integers(0, n))
    low, high = wilson(passes, n)
    expected = stats.binomtest(passes, n).proportion_ci(method="wilson")
    assert float(low) == pytest.approx(expected.low, abs=1e-12)
    assert float(high) == pytest.approx(expected.high, abs=1e-12)


def test_wilson_of_nothing_is_no_number_and_of_arrays_is_an_array() -> None:
    assert math.isnan(wilson(0, 0)[0])
    low, _ = wilson([0, 5], [10, 10])
    assert low.shape == (2,)
    assert low[0] == 0.0


def test_pass_at_k_by_hand() -> None:
    np.testing.assert_allclose(pass_at_k([4, 4, 4, 4], [0, 1, 2, 4], 2), [0, 0.5, 5 / 6, 1], atol=1e-12)
    assert math.isnan(pass_at_k(3, 1, 5))


@given(n=st.integers(1, 9), data=st.data())
def test_pass_at_k_is_the_share_of_all_choices_of_k_samples(n: int, data: st.DataObject) -> None:
    passes, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    chosen = [any(index < passes for index in choice) for choice in combinations(range(n), k)]
    assert float(pass_at_k(n, passes, k)) == pytest.approx(sum(chosen) / len(chosen), abs=1e-12)


def test_pass_at_k_is_unbiased() -> None:
    chance, n, k = 0.3, 10, 4
    expected = sum(stats.binom.pmf(c, n, chance) * pass_at_k(n, c, k) for c in range(n + 1))
    assert float(expected) == pytest.approx(1 - (1 - chance) ** k, abs=1e-12)


def test_mcnemar_by_hand() -> None:
    # 10 discordant documents one way, 1 the other way: p = 2 * (C(10,0) + C(10,1)) / 2^10
    first = [1] * 9 + [0] + [1] * 20
    second = [0] * 9 + [1] + [1] * 20
    found = paired_fractions(first, second)
    assert found.p == pytest.approx(22 / 1024)
    assert found.value == pytest.approx(-8 / 30)
    assert found.n == 30


@given(OUTCOMES)
def test_mcnemar_agrees_with_scipy_and_with_itself_turned_round(outcomes: list[tuple[bool, bool]]) -> None:
    first, second = np.array(outcomes, dtype=float).T
    found, turned = paired_fractions(first, second), paired_fractions(second, first)
    gained, lost = int((second > first).sum()), int((first > second).sum())
    expected = stats.binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    assert found.p == pytest.approx(expected)
    assert (found.p, found.value) == (turned.p, -turned.value)
    assert found.low == pytest.approx(-turned.high)
    assert -1 <= found.low <= found.value <= found.high <= 1


@given(
    st.lists(st.tuples(st.floats(0.1, 5), st.floats(0.1, 5), st.floats(1, 100)), min_size=2, max_size=40),
    st.floats(0.01, 100),
)
@settings(max_examples=40, deadline=None)
def test_ratios_follow_their_units_and_order_of_documents_only_moves_the_noise(
    rows: list[tuple[float, float, float]], scale: float
) -> None:
    a, b, weight = np.array(rows).T
    found, scaled = ratio(a, weight), ratio(scale * a, weight)
    for name in ("value", "low", "high"):
        assert getattr(scaled, name) == pytest.approx(scale * getattr(found, name))
    assert min(a / weight) - 1e-9 <= found.low <= found.high <= max(a / weight) + 1e-9
    difference, turned = paired_ratios((a, weight), (b, weight)), paired_ratios((b, weight), (a, weight))
    assert difference.value == pytest.approx(b.sum() / weight.sum() - a.sum() / weight.sum())
    assert turned.value == pytest.approx(-difference.value)
    assert turned.p == pytest.approx(difference.p)
    if difference.p < 1:
        assert (difference.low > 0 or difference.high < 0) == (difference.p < 0.05)


@given(st.lists(st.floats(0.1, 9), min_size=1, max_size=50))
def test_identical_runs_are_never_told_apart(values: list[float]) -> None:
    weights = np.ones(len(values))
    assert paired_ratios((values, weights), (values, weights)).p == 1.0
    passed = np.array(values) > 4
    assert paired_fractions(passed, passed).p == 1.0


def test_rounding_is_no_difference_and_a_constant_shift_is_one() -> None:
    values = np.linspace(1, 2, 20)
    weights = np.ones(20)
    noisy = values * (1 + 1e-15 * np.random.default_rng(0).standard_normal(20))
    assert paired_ratios((values, weights), (noisy, weights)).p == 1.0
    assert paired_ratios((values, weights), (values + 0.1, weights)).p == pytest.approx(0.0, abs=1e-12)


@pytest.mark.filterwarnings("error")
def test_too_few_documents_give_no_interval_and_no_warning() -> None:
    assert math.isnan(fraction([]).value)
    assert math.isnan(ratio([], []).value)
    one = ratio([3.0], [2.0])
    assert one.value == 1.5
    assert math.isnan(one.low)
    assert paired_ratios(([3.0], [2.0]), ([4.0], [2.0])).p == 1.0
    assert math.isnan(paired_ratios(([], []), ([], [])).value)
    assert paired_fractions([], []).p == 1.0
    assert math.isnan(detectable_fraction(5, 0.1))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_holm_keeps_order_and_lies_between_nothing_and_bonferroni(p_values: list[float]) -> None:
    p, corrected = np.array(p_values), holm(p_values)
    assert (corrected >= p - 1e-15).all()
    assert (corrected <= np.minimum(1, p * p.size) + 1e-12).all()
    order = np.argsort(p, kind="stable")
    assert (np.diff(corrected[order]) >= 0).all()


def test_holm_by_hand() -> None:
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    assert holm([]).size == 0


@pytest.mark.parametrize("n", [6, 20, 41, 164])
@pytest.mark.parametrize("disagreement", [0.02, 0.1, 0.5])
def test_the_detectable_difference_of_pass_rates_has_the_stated_power(n: int, disagreement: float) -> None:
    difference = detectable_fraction(n, disagreement)
    rate = max(disagreement, difference)
    power = 0.0
    for count in range(1, n + 1):
        against = [k for k in range(count + 1) if 2 * stats.binom.cdf(k, count, 0.5) <= 0.05]
        found = stats.binom.cdf(max(against), count, (rate - difference) / (2 * rate)) if against else 0.0
        power += stats.binom.pmf(count, n, rate) * found
    assert power == pytest.approx(0.8, abs=0.01)


def test_the_odds_of_a_gain_by_hand_and_infinite_where_nothing_is_lost() -> None:
    first = [1] * 2 + [0] * 6 + [1] * 20
    second = [0] * 2 + [1] * 6 + [1] * 20
    found = matched_odds(first, second)
    share = stats.binomtest(6, 8).proportion_ci(method="exact")
    assert found.value == 3.0
    assert found.low == pytest.approx(share.low / (1 - share.low))
    assert found.high == pytest.approx(share.high / (1 - share.high))
    gained = matched_odds([0, 0, 0, 1], [1, 1, 1, 1])
    assert (gained.value, gained.high) == (math.inf, math.inf)
    assert math.isnan(matched_odds([1, 0], [1, 0]).value)


@given(OUTCOMES)
def test_the_odds_leave_out_1_exactly_where_mcnemar_finds_something(outcomes: list[tuple[bool, bool]]) -> None:
    first, second = np.array(outcomes, dtype=float).T
    odds, found = matched_odds(first, second), paired_fractions(first, second)
    assert (odds.low > 1 or odds.high < 1) == (found.p < 0.05)


def test_the_relative_change_by_hand_and_undefined_from_nothing() -> None:
    assert relative_change(([2.0, 2.0], [1, 1]), ([2.2, 2.2], [1, 1])).value == pytest.approx(10)
    assert relative_change(([2.0, 2.0], [1, 1]), ([2.2, 2.2], [1, 1])).low == pytest.approx(10)
    assert math.isnan(relative_change(([0.0], [1]), ([1.0], [1])).value)
    one = relative_change(([2.0], [1]), ([3.0], [1]))
    assert (one.value, math.isnan(one.low)) == (pytest.approx(50), True)


def test_resampling_a_fraction_needs_no_drawing() -> None:
    passed = np.repeat([1.0, 0.0], [30, 70])
    low, high = resampled_fraction(30, 100)
    drawn = ratio(passed, np.ones(100))
    assert low == pytest.approx(drawn.low, abs=0.011)
    assert high == pytest.approx(drawn.high, abs=0.011)
    assert resampled_fraction(5, 5) == (1.0, 1.0)
    assert math.isnan(resampled_fraction(1, 1)[0])


# Simulation: draw many data sets of known truth and count how often the answer is right.

REPEATS = 1500


def covered(low: np.ndarray, high: np.ndarray, truth: float) -> float:
    return float(np.mean((np.asarray(low) <= truth) & (truth <= np.asarray(high))))


@pytest.mark.parametrize(("chance", "n"), [(0.05, 164), (0.3, 164), (0.3, 41), (0.5, 1000)])
def test_wilson_covers_the_truth_as_often_as_it_says(chance: float, n: int) -> None:
    # Summed exactly over all outcomes: no simulation is needed.
    counts = np.arange(n + 1)
    low, high = wilson(counts, np.full(n + 1, n))
    mass = stats.binom.pmf(counts, n, chance)
    assert 0.93 <= mass[(low <= chance) & (chance <= high)].sum() <= 0.97


def texts(generator: np.random.Generator, n: int, spread: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return bits of two models and bytes of n documents; ``spread`` is that of the logarithm of their size."""
    weight = generator.lognormal(7, spread, n)
    hard = weight * generator.lognormal(-0.02, 0.2, n)
    first, second = (hard * level * generator.lognormal(0, 0.05, n) for level in (1.0, 1.03))
    return first, second, weight


@pytest.mark.parametrize(
    ("n", "spread"), [(12, 0.5), (20, 0.3), (24, 0.5), (41, 0.5), (100, 0.7), (20, 0.8), (20, 1.0), (60, 1.0)]
)
def test_intervals_of_bits_per_byte_and_of_its_differences_cover_the_truth(n: int, spread: float) -> None:
    generator = np.random.default_rng(25)
    first, second, weight = texts(generator, 1_000_000, spread)
    truth, shift = first.sum() / weight.sum(), (second - first).sum() / weight.sum()
    single, paired = [], []
    for _ in range(REPEATS):
        a, b, w = texts(generator, n, spread)
        single.append(ratio(a, w))
        paired.append(paired_ratios((a, w), (b, w)))
    assert 0.93 <= covered([e.low for e in single], [e.high for e in single], truth) <= 0.97
    assert 0.93 <= covered([d.low for d in paired], [d.high for d in paired], shift) <= 0.97


@pytest.mark.parametrize(("chance", "n"), [(0.25, 100), (0.4, 250), (0.6, 1000)])
def test_the_bootstrap_of_multiple_choice_covers_the_truth_like_the_analytic_interval(chance: float, n: int) -> None:
    counts = np.arange(n + 1)
    bounds = np.array([resampled_fraction(float(count), n) for count in counts])
    mass = stats.binom.pmf(counts, n, chance)
    assert 0.93 <= mass[(bounds[:, 0] <= chance) & (chance <= bounds[:, 1])].sum() <= 0.97


@pytest.mark.parametrize(("n", "spread"), [(24, 0.5), (100, 0.7)])
def test_intervals_of_relative_changes_cover_the_truth(n: int, spread: float) -> None:
    generator = np.random.default_rng(26)
    first, second, _ = texts(generator, 1_000_000, spread)
    truth = 100 * (second.sum() / first.sum() - 1)
    found = []
    for _ in range(REPEATS):
        a, b, w = texts(generator, n, spread)
        found.append(relative_change((a, w), (b, w)))
    assert 0.93 <= covered([e.low for e in found], [e.high for e in found], truth) <= 0.97


@pytest.mark.parametrize(("share", "changed"), [(0.5, 10), (0.7, 24), (0.9, 40)])
def test_the_exact_interval_of_the_odds_never_covers_less_than_it_says(share: float, changed: int) -> None:
    # Exact intervals are wider than 95 % asks for where few documents changed; narrower ones would contradict McNemar.
    gained = np.arange(changed + 1)
    found = [
        matched_odds(np.repeat([0, 1], [up, changed - up]), np.repeat([1, 0], [up, changed - up])) for up in gained
    ]
    held = np.array([odds.low <= share / (1 - share) <= odds.high for odds in found])
    assert stats.binom.pmf(gained, changed, share)[held].sum() >= 0.95


@pytest.mark.parametrize("n", [41, 164])
def test_intervals_of_pass_at_k_cover_the_truth(n: int) -> None:
    generator = np.random.default_rng(21)
    truth = 1 - float(np.mean((1 - generator.beta(0.5, 2, 1_000_000)) ** 5))
    found = []
    for _ in range(REPEATS):
        passes = generator.binomial(20, generator.beta(0.5, 2, n))
        found.append(ratio(pass_at_k(20, passes, 5), np.ones(n)))
    assert 0.93 <= covered([e.low for e in found], [e.high for e in found], truth) <= 0.97


@pytest.mark.parametrize(
    ("n", "lost", "gained"), [(164, 0.10, 0.15), (164, 0.03, 0.05), (41, 0.15, 0.2), (41, 0.1, 0.1)]
)
def test_intervals_of_paired_pass_rates_cover_the_truth_and_are_not_wasteful(
    n: int, lost: float, gained: float
) -> None:
    generator = np.random.default_rng(22)
    counts = generator.multinomial(n, [lost, gained, 1 - lost - gained], size=REPEATS)
    found = []
    for down, up, _ in counts:
        first = np.concatenate([np.ones(down), np.zeros(up), np.ones(n - down - up)])
        second = np.concatenate([np.zeros(down), np.ones(up), np.ones(n - down - up)])
        found.append(paired_fractions(first, second))
    assert 0.93 <= covered([d.low for d in found], [d.high for d in found], gained - lost) <= 0.97


@pytest.mark.parametrize("n", [41, 164])
def test_intervals_of_differences_of_pass_at_k_cover_the_truth(n: int) -> None:
    generator = np.random.default_rng(27)

    def rates(size: int) -> tuple[np.ndarray, np.ndarray]:
        easy = generator.normal(-1.5, 1.5, size)
        first, second = (1 / (1 + np.exp(-easy - shift - generator.normal(0, 0.5, size))) for shift in (0.0, 0.4))
        return first, second

    first, second = rates(1_000_000)
    truth = float(np.mean((1 - first) ** 5 - (1 - second) ** 5))
    found, ones = [], np.ones(n)
    for _ in range(REPEATS):
        drawn = [pass_at_k(20, generator.binomial(20, chance), 5) for chance in rates(n)]
        found.append(paired_ratios((drawn[0], ones), (drawn[1], ones)))
    assert 0.93 <= covered([d.low for d in found], [d.high for d in found], truth) <= 0.97


def test_a_few_large_documents_leave_few_degrees_of_freedom() -> None:
    assert statistics.freedom(np.ones(20)) == pytest.approx(19)
    assert statistics.freedom([3, 1, 1, 1]) == pytest.approx(36 / 12 - 1)
    assert statistics.freedom([1000, 1]) == 1.0


def test_a_planted_difference_of_passes_is_found_as_often_as_stated() -> None:
    generator = np.random.default_rng(28)
    n, disagreement = 164, 0.2
    planted = detectable_fraction(n, disagreement)
    lost, gained = (disagreement - planted) / 2, (disagreement + planted) / 2
    found, none = [], []
    for chances, into in (((lost, gained), found), ((0.1, 0.1), none)):
        for down, up, _ in generator.multinomial(n, [*chances, 1 - sum(chances)], size=REPEATS):
            first = np.concatenate([np.ones(down), np.zeros(up), np.ones(n - down - up)])
            second = np.concatenate([np.zeros(down), np.ones(up), np.ones(n - down - up)])
            into.append(paired_fractions(first, second).p < 0.05)
    assert 0.77 <= np.mean(found) <= 0.83
    assert np.mean(none) <= 0.05  # exact tests are careful


def test_a_planted_difference_of_bits_per_byte_is_found_as_often_as_stated() -> None:
    generator = np.random.default_rng(23)
    n = 24
    weight = generator.lognormal(7, 0.5, n)
    noise = 0.05 * weight * math.sqrt(2)
    error = math.sqrt((noise**2).sum()) / weight.sum()
    planted = statistics.detectable_shift(error, statistics.freedom(weight))
    found, none = [], []
    for _ in range(REPEATS):
        first = weight * (1 + generator.normal(0, 0.2, n))
        second = first + noise * generator.standard_normal(n)
        none.append(paired_ratios((first, weight), (second, weight)).p < 0.05)
        found.append(paired_ratios((first, weight), (second + planted * weight, weight)).p < 0.05)
    assert 0.76 <= np.mean(found) <= 0.84
    assert 0.03 <= np.mean(none) <= 0.07


def test_resampling_in_blocks_agrees_with_resampling_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(24).lognormal(0, 1, 50)
    whole = ratio(values, np.ones(50))
    monkeypatch.setattr(statistics, "_CHUNK", 5000)
    assert ratio(values, np.ones(50)) == whole
