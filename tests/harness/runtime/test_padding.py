"""Batches of sequences of similar length."""

from hypothesis import given
from hypothesis import strategies as st

from crosstok.harness.runtime.padding import MOST_PADDING, of_like_length

WIDTHS = st.lists(st.integers(1, 50), min_size=1, max_size=30).map(lambda found: sorted(found, reverse=True))


@given(WIDTHS, st.integers(1, 400))
def test_a_pass_takes_as_many_as_budget_and_padding_allow_and_one_at_least(widths: list[int], budget: int) -> None:
    def allowed(count: int) -> bool:
        padded = count * widths[0]
        return count == 1 or (padded <= budget and padded - sum(widths[:count]) <= MOST_PADDING * padded)

    count = of_like_length(widths, budget)
    assert allowed(count)
    assert count == len(widths) or not allowed(count + 1)


def test_sequences_of_one_length_fill_the_budget() -> None:
    assert of_like_length([10] * 100, 400) == 40
    assert of_like_length([500], 400) == 1
