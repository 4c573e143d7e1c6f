"""Binary divergences and their temperature limits against values worked out by hand, alone and inside ALM."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from crosstok.distill.losses import AlignedBatch, Outputs, Side
from crosstok.distill.readings.divergences import Divergence, ForwardKL, Renyi, ReverseKL, divergence
from crosstok.distill.registry import LOSSES
from crosstok.errors import UserError

P, Q = math.log(0.25), math.log(0.0625)
ALL: list[dict[str, Any]] = [
    {"f": "kl"},
    {"f": "reverse_kl"},
    {"f": "tvd"},
    {"f": "renyi", "alpha": 0.5},
    {"f": "renyi", "alpha": 2.0},
]


def chunk(p_teacher: float, p_student: float, **options: Any) -> float:
    """Return ALM of one chunk behind a BOS with these probabilities."""
    ids = torch.zeros(1, 2, dtype=torch.long)
    one = Side(ids, torch.ones_like(ids), torch.tensor([[-1, 0]]), torch.tensor([[False, True]]), ids)
    read = [Outputs({"gold": torch.tensor([[0.0, math.log(p)]])}) for p in (p_student, p_teacher)]
    loss = LOSSES.create({"name": "alm", "gamma": 0, "debias": False, **options})
    return float(loss(AlignedBatch(one, one, count=1), *read).sum)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"f": "kl", "tau": 1}, 0.179216),
        ({"f": "kl", "tau": 2}, 0.143841),
        ({"f": "kl", "tau": "inf"}, 0.425388),
        ({"f": "tvd", "tau": 1}, 0.375),
        ({"f": "tvd", "tau": "inf"}, 2.772589),
        ({"f": "tvd", "tau": 1, "outcomes": "single"}, 0.1875),
        ({"f": "tvd", "tau": "inf", "outcomes": "single"}, 1.386294),
        ({"f": "kl", "tau": 1, "outcomes": "single"}, 0.25 * math.log(4)),
        ({"f": "reverse_kl", "tau": 1}, 0.0625 * math.log(0.25) + 0.9375 * math.log(1.25)),
        ({"f": "reverse_kl", "tau": "inf"}, -2 * math.log(2) - 4 * math.log(2) * math.log(0.5)),
        # sqrt(1/4 * 1/16) + sqrt(3/4 * 15/16) = 1/8 + sqrt(45)/8
        ({"f": "renyi", "alpha": 0.5, "tau": 1}, -2 * math.log((1 + math.sqrt(45)) / 8)),
        # p²/q + (1-p)²/(1-q) = 1 + 3/5
        ({"f": "renyi", "alpha": 2, "tau": 1}, math.log(1.6)),
        # x = 2 ln 2, y = 4 ln 2: (x²/y - 2x + y) / 1 = ln 2
        ({"f": "renyi", "alpha": 2, "tau": "inf"}, math.log(2)),
    ],
)
def test_a_chunk_of_one_quarter_against_one_sixteenth_has_the_hand_computed_value(
    options: dict[str, Any], expected: float
) -> None:
    assert chunk(0.25, 0.0625, **options) == pytest.approx(expected, abs=2e-5)


def test_the_cross_entropy_form_is_the_divergence_plus_the_teachers_entropy_with_the_same_gradient() -> None:
    student = torch.tensor(math.log(0.5), requires_grad=True)
    found = ForwardKL().of(torch.tensor(math.log(0.8)), student, "both")
    found.backward()
    entropy = -0.8 * math.log(0.8) - 0.2 * math.log(0.2)
    assert float(found.detach()) + entropy == pytest.approx(0.693147, abs=1e-6)
    assert float(student.grad) == pytest.approx(-0.6, abs=1e-6)  # type: ignore[arg-type]  # there is a gradient


@pytest.mark.parametrize("outcomes", ["both", "single"])
@pytest.mark.parametrize("options", ALL)
def test_tau_times_the_divergence_tends_to_the_limit(options: dict[str, Any], outcomes: str) -> None:
    if options["f"] == "renyi" and outcomes == "single":
        return
    measure = divergence(options["f"], options.get("alpha", 0.5))
    a, b = torch.tensor(P, dtype=torch.float64), torch.tensor(Q, dtype=torch.float64)
    tau = 1e5
    found = tau * measure.of(a / tau, b / tau, outcomes)  # type: ignore[arg-type]  # one of the two
    assert float(found) == pytest.approx(float(measure.limit(a, b, outcomes)), rel=1e-3)  # type: ignore[arg-type]


@pytest.mark.parametrize("tau", [1, 5, 100, "inf"])
@pytest.mark.parametrize("options", ALL)
def test_equal_likelihoods_give_zero_and_other_ones_more(options: dict[str, Any], tau: Any) -> None:
    assert chunk(0.3, 0.3, tau=tau, **options) == pytest.approx(0, abs=1e-6)
    assert chunk(0.3, 0.4, tau=tau, **options) > 1e-6
    assert chunk(0.3, 0.2, tau=tau, **options) > 1e-6


@pytest.mark.parametrize("options", ALL)
@given(a=st.floats(-60, -1e-6), b=st.floats(-60, -1e-6))
def test_values_are_not_negative_and_finite_with_finite_gradients(options: dict[str, Any], a: float, b: float) -> None:
    measure = divergence(options["f"], options.get("alpha", 0.5))
    for value in (measure.of, measure.limit):
        student = torch.tensor(b, dtype=torch.float32, requires_grad=True)
        found = value(torch.tensor(a, dtype=torch.float32), student, "both")
        found.backward()
        assert float(found.detach()) >= -1e-5 * max(1.0, -a, -b)
        assert math.isfinite(float(found.detach()))
        assert math.isfinite(float(student.grad))


def test_renyi_near_order_one_is_the_kl_and_reverse_kl_exchanges_the_sides() -> None:
    a, b = torch.tensor(P, dtype=torch.float64), torch.tensor(Q, dtype=torch.float64)
    near: Divergence = Renyi(1 + 1e-6)
    for outcome in ("of", "limit"):
        of_kl, of_near = getattr(ForwardKL(), outcome), getattr(near, outcome)
        assert float(of_near(a, b, "both")) == pytest.approx(float(of_kl(a, b, "both")), rel=1e-4)
        assert float(getattr(ReverseKL(), outcome)(a, b, "both")) == float(of_kl(b, a, "both"))


@pytest.mark.parametrize(
    "options", [{"f": "renyi", "alpha": 1}, {"f": "renyi", "outcomes": "single"}, {"tau": float("inf")}]
)
def test_forms_that_have_no_meaning_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="alm cannot be used"):
        LOSSES.create({"name": "alm", **options})
