"""Operations per byte, computed by hand."""

import pytest

from crosstok.results.tables.costs import VIEW_BYTES, flops_per_byte

COMPUTE = {"body": 1000, "head": 400, "context": 2}


def test_a_byte_costs_a_token_divided_by_its_bytes_with_attention_over_the_same_text() -> None:
    # 4 bytes per token: 256 tokens in view
    assert flops_per_byte(COMPUTE, 4.0) == (1000 + 400 + 2 * VIEW_BYTES / 4) / 4


def test_bytes_cost_a_byte_level_model_their_whole_token_and_a_longer_view() -> None:
    assert flops_per_byte(COMPUTE, 1.0) == 1400 + 2 * VIEW_BYTES


@pytest.mark.parametrize(("compute", "bytes_per_token"), [({}, 4.0), (COMPUTE, None), (COMPUTE, 0.0)])
def test_what_is_not_known_is_not_stated(compute: dict[str, int], bytes_per_token: float | None) -> None:
    assert flops_per_byte(compute, bytes_per_token) is None
