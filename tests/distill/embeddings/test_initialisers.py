"""Every initialiser against rows worked out by hand, and what all of them must keep."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import tiny_model
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from toy_tokenizers import BUILDERS, toy_tokenizer

from crosstok.distill.embeddings.approximation import Approximation, calibrated
from crosstok.distill.embeddings.donor import DonorInitialiser
from crosstok.distill.embeddings.omp import OMP, matching_pursuit
from crosstok.distill.embeddings.transplant import special_rows, transplant
from crosstok.distill.registry import INITIALISERS
from crosstok.distill.tokenizers.tokenbytes import TokenBytes
from crosstok.errors import UserError

WITHOUT_DONOR = ["fvt", "subword", "mean", "hewitt", "normal", "zero"]


def byte_level(pieces: list[str], merges: list[tuple[str, str]], specials: tuple[str, ...] = ()) -> TokenBytes:
    """Return a byte-level BPE with exactly these pieces and merges."""
    tokenizer = Tokenizer(models.BPE(vocab={piece: index for index, piece in enumerate(pieces)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in specials])
    return TokenBytes.from_tokenizer(tokenizer)


def tokens_of(name: str) -> TokenBytes:
    return TokenBytes.from_tokenizer(toy_tokenizer(name))


SOURCE = byte_level(["a", "b", "c", "ab"], [("a", "b")], ("<s>",))
TARGET = byte_level(["c", "ab", "a", "b", "abc"], [("a", "b"), ("ab", "c")], ("<s>",))
INPUT = torch.tensor([[4.0, 0.0], [0.0, 4.0], [0.0, 2.0], [3.0, 0.0], [1.0, 1.0]])
OUTPUT = 10 * INPUT


def made(choice: Any, target: TokenBytes = TARGET, **matrices: torch.Tensor) -> tuple[Any, tuple[str, ...]]:
    """Return the input and output row of the last ordinary token, ``abc`` = ``ab`` + ``c``, and all origins."""
    rows = INITIALISERS.create(choice).rows(matrices or {"input": INPUT, "output": OUTPUT}, SOURCE, target, {5: 4})  # type: ignore[arg-type]  # the names are kinds
    return {kind: matrix[4].tolist() for kind, matrix in rows.matrices.items()}, rows.origins


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("mean", [1.5, 1.0]),
        ("sum", [3.0, 2.0]),
        ("length", [2.0, 2 / 3]),  # ab has two bytes of three
        ("first", [3.0, 0.0]),
        ("last", [0.0, 2.0]),
        ("decay", [2.0, 2 / 3]),  # 1 and 1/2 over 3/2
    ],
)
def test_a_subword_rule_weights_the_pieces_as_its_name_says(rule: str, expected: list[float]) -> None:
    rows, origins = made({"name": "subword", "input": rule, "output": "first"})
    assert rows["input"] == pytest.approx(expected)
    assert rows["output"] == pytest.approx([30.0, 0.0])
    rows, _ = made({"name": "subword", "input": "last", "output": rule})
    assert rows["input"] == pytest.approx([0.0, 2.0])
    assert rows["output"] == pytest.approx([10 * value for value in expected])
    assert origins == ("exact",) * 4 + ("approximated", "special")


def test_a_decay_of_one_half_over_three_pieces_and_the_last_piece() -> None:
    source = byte_level(["x", "y", "z"], [])
    matrix = torch.tensor([[4.0, 0.0], [0.0, 4.0], [0.0, 0.0]])
    target = byte_level(["x", "y", "z", "xy", "xyz"], [("x", "y"), ("xy", "z")])
    chosen = INITIALISERS.create({"name": "subword", "input": "last", "output": "decay", "decay": 0.5})
    rows = chosen.rows({"input": matrix, "output": matrix}, source, target, {})
    assert rows.matrices["output"][4].tolist() == pytest.approx([16 / 7, 8 / 7])
    assert rows.matrices["input"][4].tolist() == [0.0, 0.0]


def test_the_mean_row_is_the_mean_of_all_rows_of_its_own_matrix() -> None:
    rows, _ = made("mean")
    assert rows["input"] == pytest.approx([1.6, 1.4])
    assert rows["output"] == pytest.approx([16.0, 14.0])


def test_zero_is_zero_and_stays_so_when_norms_are_calibrated() -> None:
    assert made("zero")[0] == {"input": [0.0, 0.0], "output": [0.0, 0.0]}
    assert made({"name": "zero", "calibrate": True})[0]["input"] == [0.0, 0.0]


def many(count: int) -> tuple[TokenBytes, TokenBytes]:
    """Return a source of single letters, and a target with ``count`` more tokens."""
    letters = [chr(97 + index) for index in range(26)]
    words = sorted(f"{a}{b}{c}" for a in letters for b in letters for c in letters)[:count]
    return byte_level(letters, []), byte_level([*letters, *words], [])


@pytest.mark.parametrize(("name", "keeps_covariance"), [("hewitt", True), ("normal", False)])
def test_draws_have_the_mean_and_the_spread_of_real_rows(name: str, keeps_covariance: bool) -> None:
    source, target = many(8000)
    generator = torch.Generator().manual_seed(3)
    mixed = torch.tensor([[1.0, 0.9], [0.0, 0.3]])
    matrix = torch.randn(26, 2, generator=generator) @ mixed + torch.tensor([5.0, -2.0])
    drawn = INITIALISERS.create(name).rows({"input": matrix}, source, target, {}).matrices["input"][26:]
    assert torch.allclose(drawn.mean(dim=0), matrix.mean(dim=0), atol=0.05)
    expected = torch.cov(matrix.T, correction=0)
    if not keeps_covariance:
        expected = expected * torch.eye(2)
    assert torch.allclose(torch.cov(drawn.T), expected, atol=0.06)


@pytest.mark.parametrize("name", ["hewitt", "normal"])
def test_the_same_seed_draws_the_same_rows_and_another_one_does_not(name: str) -> None:
    assert made(name) == made(name)
    assert made(name) != made({"name": name, "seed": 1})


def test_the_covariance_can_be_shrunk_towards_the_mean_row() -> None:
    rows, _ = made({"name": "hewitt", "scale": 0})
    assert rows["input"] == pytest.approx([1.6, 1.4])


# Calibration and untrained rows.


@pytest.mark.parametrize("name", ["fvt", "subword", "mean", "hewitt", "normal"])
def test_calibration_gives_new_rows_the_mean_norm_of_the_exact_rows_in_each_matrix(name: str) -> None:
    rows, _ = made({"name": name, "calibrate": True})
    assert torch.tensor(rows["input"]).norm() == pytest.approx((4 + 4 + 2 + 3) / 4)  # the special row does not count
    assert torch.tensor(rows["output"]).norm() == pytest.approx(10 * (4 + 4 + 2 + 3) / 4)


def test_calibration_keeps_the_direction_and_rows_of_length_zero() -> None:
    assert calibrated(torch.tensor([[3.0, 4.0], [0.0, 0.0]]), 10.0).tolist() == [[6.0, 8.0], [0.0, 0.0]]


def test_rows_that_were_never_trained_are_left_out_of_the_mean() -> None:
    short = torch.tensor([[4.0, 0.0], [0.0, 4.0], [0.0, 0.001], [3.0, 0.0], [5.0, 0.0]])
    rows, _ = made({"name": "mean", "untrained": 0.1}, input=short)
    assert rows["input"] == pytest.approx([3.0, 1.0])
    rows, origins = made({"name": "mean", "untrained": 0.1}, input=short)
    assert origins[0] == "exact"  # it is still copied


# With a donor.


B = torch.tensor([[0.0, 0.0, 2.0], [1.0, 1.0, 0.0]])  # the source's rows of b and a
A = torch.tensor([[1.0, 0.0], [0.0, 1.0], [3.0, 2.0]])  # the donor's of a, b and t


@pytest.fixture
def make_donated(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[float]]:
    """Return a function that gives the new row under an initialiser, for a donor held in memory."""

    def make(choice: dict[str, Any], donor: torch.Tensor = A) -> list[float]:
        initialiser = INITIALISERS.create({"donor": "in memory", **choice})
        assert isinstance(initialiser, DonorInitialiser)
        target = byte_level(["a", "b", "t"], [])
        given = {"input": donor, "output": donor}, target
        monkeypatch.setattr(type(initialiser), "load_donor", lambda _: given)
        rows = initialiser.rows({"input": B}, byte_level(["b", "a"], []), target, {})
        assert rows.origins == ("exact", "exact", "approximated")
        row: list[float] = rows.matrices["input"][2].tolist()
        return row

    return make


def test_omp_has_the_coefficients_of_the_hand_case(make_donated: Callable[..., list[float]]) -> None:
    assert make_donated({"name": "omp", "k": 2}) == pytest.approx([3.0, 3.0, 4.0])
    assert make_donated({"name": "omp", "k": 1}) == pytest.approx([3.0, 3.0, 0.0])


def test_omp_of_a_row_that_is_shared_is_that_row(make_donated: Callable[..., list[float]]) -> None:
    same = torch.tensor([[1.0, 2.0], [5.0, 1.0], [5.0, 1.0]])
    assert make_donated({"name": "omp", "k": 2}, same) == pytest.approx([0.0, 0.0, 2.0])
    indices, coefficients = matching_pursuit(same[:2], same[2:], 2)
    assert (indices.tolist(), coefficients.tolist()) == ([[1, 0]], [[1.0, 0.0]])


def test_more_atoms_than_shared_tokens_are_refused(make_donated: Callable[..., list[float]]) -> None:
    for name in ("omp", "nearest"):
        with pytest.raises(UserError, match="k = 3 shared tokens, but only 2"):
            make_donated({"name": name, "k": 3})


def test_the_pursuit_is_the_least_squares_fit_on_the_atoms_it_takes() -> None:
    generator = torch.Generator().manual_seed(0)
    atoms, wanted = torch.randn(40, 16, generator=generator), torch.randn(7, 16, generator=generator)
    indices, coefficients = matching_pursuit(atoms, wanted, 6)
    assert all(len(set(row)) == 6 for row in indices.tolist())
    left = wanted.clone()
    for row in range(7):
        basis = atoms[indices[row]].T.double()
        fit = torch.linalg.lstsq(basis, wanted[row].double()[:, None]).solution[:, 0]
        assert torch.allclose(coefficients[row].double(), fit, atol=1e-5)
        for step in range(6):  # each atom is the one most correlated with what the earlier ones leave
            before = atoms[indices[row, :step]].T
            left = wanted[row] - (before @ torch.linalg.lstsq(before, wanted[row][:, None]).solution)[:, 0]
            scores = (atoms @ left).abs()
            scores[indices[row, :step]] = -1
            assert scores.argmax() == indices[row, step]


def test_the_gram_matrix_changes_nothing_but_the_time() -> None:
    generator = torch.Generator().manual_seed(0)
    atoms, wanted = torch.randn(300, 64, generator=generator), torch.randn(9, 64, generator=generator)
    plain, quick = (matching_pursuit(atoms, wanted, 48, gram) for gram in (None, atoms @ atoms.T))
    assert torch.equal(plain[0], quick[0])
    assert torch.allclose(plain[1], quick[1], atol=1e-4)


def test_more_atoms_than_dimensions_fit_exactly_and_stay_finite() -> None:
    generator = torch.Generator().manual_seed(0)
    atoms, wanted = torch.randn(40, 4, generator=generator), torch.randn(5, 4, generator=generator)
    indices, coefficients = matching_pursuit(atoms, wanted, 10)
    assert torch.allclose(torch.einsum("tk,tkd->td", coefficients, atoms[indices]), wanted, atol=1e-4)


def test_the_nearest_rows_are_weighted_by_inverse_distance(make_donated: Callable[..., list[float]]) -> None:
    donor = torch.tensor([[0.0, 1.0], [0.0, 5.0], [0.0, 2.0]])  # distances 1 and 3: weights 3/4 and 1/4
    options = {"name": "nearest", "k": 2, "distance": "euclidean"}
    assert make_donated(options, donor) == pytest.approx([0.75, 0.75, 0.5])
    assert make_donated({**options, "k": 1}, donor) == pytest.approx([1.0, 1.0, 0.0])
    on_top = torch.tensor([[1.0, 0.0], [3.0, 3.0], [1.0, 0.0]])
    assert make_donated({"name": "nearest", "k": 2}, on_top) == pytest.approx([1.0, 1.0, 0.0], abs=1e-4)


def test_a_donor_on_disk_is_read_and_its_tokens_are_paired_by_their_bytes(save_tiny: Any, tmp_path: Path) -> None:
    source, target = tokens_of("spm"), tokens_of("bpe")
    donor = str(save_tiny(tmp_path / "donor", "bpe", width=48, tied=False))
    matrices = {"input": torch.randn(source.size, 32), "output": torch.randn(source.size, 32)}
    for name in ("omp", "nearest"):
        rows = INITIALISERS.create({"name": name, "donor": donor, "k": 4}).rows(matrices, source, target, {})  # type: ignore[arg-type]  # the names are kinds
        counts = rows.counts()
        assert counts["approximated"] > 5
        assert sum(counts.values()) == target.size
        assert counts["fallback"] == len(target.special_ids)
        assert not torch.equal(rows.matrices["input"], rows.matrices["output"])
        assert bool(torch.isfinite(rows.matrices["input"]).all())


def test_a_donor_without_a_common_token_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"input": A, "output": A}, byte_level(["x", "y", "z"], [])
    monkeypatch.setattr(OMP, "load_donor", lambda _: given)
    with pytest.raises(UserError, match="shares no token"):
        OMP(donor="stranger", k=1).rows({"input": B}, byte_level(["b", "a"], []), byte_level(["a", "t"], []), {})


def test_an_initialiser_with_a_donor_asks_for_one() -> None:
    with pytest.raises(UserError, match="donor: field required"):
        INITIALISERS.create("omp")


# What all must keep.


@pytest.mark.parametrize("calibrate", [False, True])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", WITHOUT_DONOR)
def test_a_model_given_its_own_tokenizer_stays_as_it_was_bit_for_bit(name: str, tied: bool, calibrate: bool) -> None:
    tokens = tokens_of("spm")
    model = tiny_model(toy_tokenizer("spm"), tied=tied, rows=tokens.size + 5)
    before = copy.deepcopy(model.state_dict())
    chosen = INITIALISERS.create({"name": name, "calibrate": calibrate})
    transplant(model, chosen, tokens, tokens, special_rows(tokens, tokens, {}, {}))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("target", sorted(BUILDERS))
@pytest.mark.parametrize("name", WITHOUT_DONOR)
def test_every_row_is_finite_has_one_origin_and_exact_rows_are_copies(name: str, target: str) -> None:
    source, here = tokens_of("bpe"), tokens_of(target)
    matrix = torch.randn(source.size, 8, dtype=torch.bfloat16)
    chosen = INITIALISERS.create({"name": name, "calibrate": True, "untrained": 0.2})
    rows = chosen.rows({"input": matrix}, source, here, special_rows(source, here, {}, {}))
    new = rows.matrices["input"]
    assert new.dtype == torch.bfloat16
    assert bool(torch.isfinite(new).all())
    assert sum(rows.counts().values()) == here.size == len(new)
    for token, origin in enumerate(rows.origins):
        if origin == "exact":
            found = source.id_of(here.table[token] or b"")
            assert found is not None
            assert torch.equal(new[token], matrix[found])


def test_every_built_in_initialiser_is_found_by_its_own_name() -> None:
    for name in INITIALISERS.names():
        found = INITIALISERS.find(name)
        assert found.name == name
        assert issubclass(found, Approximation)
