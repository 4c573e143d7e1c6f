"""The numbers of an inspection, worked out on paper: rows, their surroundings, their way, and what layers say."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from expanded_models import grown_tokenizer, table
from safetensors.torch import save_file
from tiny_models import tiny_model
from torch.testing import assert_close
from toy_tokenizers import TEXT, toy_tokenizer

from crosstok.distill.inspection import Inspection, geometry, inspect
from crosstok.distill.inspection.lens import Lens
from crosstok.distill.models import checkpoints, provenance

NEW = 4
FIRST = table("bpe", 0).size
WIDTH = 32


# --- rows ---


def test_norms_are_lengths_and_their_percentiles_lie_between_rows() -> None:
    norms = geometry.group(torch.tensor([[3.0, 4.0], [0.0, 0.0], [5.0, 12.0]])).norms
    assert norms.n == 3
    assert [norms.mean, norms.low, norms.median, norms.high] == pytest.approx([6.0, 0.5, 5.0, 12.2])


def test_what_is_not_there_is_left_out_of_a_spread() -> None:
    assert geometry.spread([1.0, None, math.nan, 3.0]).model_dump() == {
        "n": 2, "mean": 2.0, "low": pytest.approx(1.1), "median": 2.0, "high": pytest.approx(2.9),
    }  # fmt: skip
    assert geometry.spread([None]).mean is None


def test_a_cosine_is_of_directions_and_0_for_a_row_of_zeros() -> None:
    rows = torch.tensor([[3.0, 4.0], [30.0, 40.0], [0.0, 0.0]])
    assert geometry.cosine(rows, torch.tensor([[4.0, 3.0]])).tolist() == pytest.approx([0.96, 0.96, 0.0])


def test_the_mean_cosine_is_over_pairs_of_different_rows() -> None:
    # right and up 0, right and left -1, up and left 0
    assert geometry.mean_cosine(torch.tensor([[1.0, 0.0], [0.0, 7.0], [-2.0, 0.0]])) == pytest.approx(-1 / 3)
    assert geometry.mean_cosine(torch.ones(1, 2)) is None


@pytest.mark.parametrize(
    ("rows", "rank"),
    [
        ([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]], 2.0),  # both directions alike
        ([[1.0, 2.0], [2.0, 4.0], [5.0, 10.0]], 1.0),  # all on a line
        ([[3.0, 4.0]] * 3, 0.0),  # one point
        # singular values 3 to 1: e to the entropy of (3/4, 1/4)
        ([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]], math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))),
        ([[13.0, 7.0], [7.0, 7.0], [10.0, 8.0], [10.0, 6.0]], 1.7547654),  # the same around another mean
    ],
)
def test_the_effective_rank_is_the_exponential_of_the_entropy_of_singular_values(
    rows: list[list[float]], rank: float
) -> None:
    found = torch.tensor(rows)
    assert geometry.effective_rank(found) == pytest.approx(rank, abs=1e-6)
    assert geometry.effective_rank(torch.cat([found, torch.zeros(len(found), 5)], dim=1)) == pytest.approx(
        rank, abs=1e-6
    )


def test_the_axes_are_the_directions_of_largest_variance_with_a_sign_of_their_own() -> None:
    axes = geometry.Axes(torch.tensor([[5.0, 1.0], [1.0, 1.0], [3.0, 2.0], [3.0, 0.0]]))
    assert axes.shares == pytest.approx((0.8, 0.2))  # variances 8 and 2
    assert axes.places(torch.tensor([[4.0, 3.0]]))[0] == pytest.approx((1.0, 2.0))


def test_the_nearest_old_rows_are_those_with_the_largest_cosine() -> None:
    old = torch.tensor([[1.0, 0.0], [0.0, 1.0], [9.0, 9.0]])
    [(cosines, values, places)] = geometry.neighbours(torch.tensor([[2.0, 1.0]]), old, 2)
    assert cosines.tolist() == pytest.approx([2 / 5**0.5, 1 / 5**0.5, 3 / 10**0.5])
    assert places.tolist() == [2, 0]
    assert values.tolist() == pytest.approx([3 / 10**0.5, 2 / 5**0.5])


# --- a student whose rows are set by hand ---


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A parent, and a student with four more tokens.

    The rows of the new tokens are three times the mean of their parts, minus that mean, twice an old row that is none
    of their parts, and zeros.
    """
    parent, student = (tmp_path_factory.mktemp("inspected") / name for name in ("parent", "student"))
    models = {parent: tiny_model(toy_tokenizer("bpe")), student: tiny_model(grown_tokenizer("bpe", NEW))}
    old = models[parent].state_dict()
    with torch.no_grad():
        for name, value in models[student].state_dict().items():
            value[: len(old[name])] = old[name]
        rows = models[student].get_input_embeddings().weight
        means = torch.stack([rows[parts(token)].mean(dim=0) for token in range(FIRST, FIRST + NEW)])
        rows[FIRST:] = torch.stack([3 * means[0], -means[1], 2 * rows[stranger()], torch.zeros(WIDTH)])
        final = rows[FIRST:].clone()
    for folder, tokenizer in ((parent, toy_tokenizer("bpe")), (student, grown_tokenizer("bpe", NEW))):
        models[folder].save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    provenance.write(student, {"kind": "source", "source": "by hand", "source_fingerprint": "x"})
    snapshots = student / "row-snapshots"
    snapshots.mkdir()
    began = torch.cat([means[:2], final[2:3] / 2, torch.ones(1, WIDTH)])
    for step, kept in ((0, began), (10, final)):
        save_file({"ids": torch.arange(FIRST, FIRST + NEW), "input": kept}, snapshots / f"step-{step}.safetensors")
    return parent, student


def parts(token: int) -> list[int]:
    data = table("bpe", NEW).table[token]
    assert data is not None
    return table("bpe", 0).encode(data.decode()).ids.tolist()


def stranger() -> int:
    """Return an old token that is no part of the third new one."""
    return next(index for index, data in enumerate(table("bpe", 0).table) if data and index not in parts(FIRST + 2))


@pytest.fixture(scope="module")
def found(folders: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Inspection:
    texts = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    texts.write_text("".join(json.dumps({"id": f"d{n}", "text": TEXT}) + "\n" for n in range(30)), "utf-8")
    parent, student = folders
    return inspect(student, parent, traces=2, corpus=f"jsonl:{texts}")


def test_each_new_row_stands_to_its_parts_as_it_was_put(found: Inspection) -> None:
    rows = [token.rows["both"] for token in found.tokens]
    assert [token.id for token in found.tokens] == list(range(FIRST, FIRST + NEW))
    to_parts = [row.to_constituents for row in rows]
    assert [to_parts[0], to_parts[1], to_parts[3]] == pytest.approx([1.0, -1.0, 0.0], abs=1e-5)
    assert rows[2].neighbours[0].id == stranger()
    assert rows[2].neighbours[0].cosine == pytest.approx(1.0, abs=1e-5)
    assert not rows[2].neighbours[0].part
    assert (rows[2].part_rank or 0) > 1
    assert rows[3].norm == 0.0
    [matrix] = found.matrices
    assert matrix.new.norms.n == NEW
    assert matrix.to_constituents.mean == pytest.approx(sum(value or 0 for value in to_parts) / NEW, abs=1e-6)
    assert matrix.old_moved == 0.0
    assert (found.new_tokens, found.old_tokens) == (NEW, sum(bool(data) for data in table("bpe", 0).table))


def test_a_row_moves_by_its_distance_in_lengths_of_where_it_began(found: Inspection) -> None:
    [movement] = found.movement
    began, ended = movement.moments
    assert (began.step, ended.step) == (0, 10)
    assert began.distance.high == 0.0
    assert began.to_start.low == pytest.approx(1.0, abs=1e-6)
    # m to 3 m moves by twice its length; -m turned around, by twice; r to 2 r by once; ones to zeros by once
    assert ended.distance.mean == pytest.approx((2 + 2 + 1 + 1) / 4, abs=1e-5)
    assert ended.to_start.mean == pytest.approx((1 - 1 + 1 + 0) / 4, abs=1e-5)


def test_the_last_layer_of_a_trace_says_what_both_models_say(found: Inspection, folders: tuple[Path, Path]) -> None:
    assert len(found.traces) == 2
    parent, student = (checkpoints.load(folder) for folder in folders)
    for trace in found.traces:
        assert [layer.layer for layer in trace.layers] == [0, 1, 2]
        pieces = parts(trace.id)
        logs, before = said(student, trace.context, [trace.id])
        assert trace.layers[-1].log_new == pytest.approx(float(logs[before - 1, trace.id]), abs=1e-4)
        theirs, start = said(parent, trace.context, pieces)
        spelt = sum(float(theirs[start - 1 + place, piece]) for place, piece in enumerate(pieces))
        assert trace.layers[-1].log_old == pytest.approx(spelt, abs=1e-4)
        there = theirs[-1, ordinary()].log_softmax(-1)
        here = logs[-1, ordinary()].log_softmax(-1)
        assert trace.layers[-1].kl == pytest.approx(float((there.exp() * (there - here)).sum()), abs=1e-4)
        best = logs[-1, : FIRST + NEW].max().exp()
        assert trace.layers[-1].student[0].probability == pytest.approx(float(best), abs=1e-4)


def ordinary() -> list[int]:
    return [index for index, data in enumerate(table("bpe", 0).table) if data]


def said(side: Any, context: str, ids: list[int]) -> tuple[torch.Tensor, int]:
    """Return log-probabilities behind each token of a text, and how many tokens stand before ``ids``."""
    first = side.bos_id if side.bos_id is not None else side.roles.end_of_text
    before = ([] if first is None else [first]) + side.tokenbytes.encode(context).ids.tolist()
    with torch.no_grad():
        return side.model(torch.tensor([[*before, *ids]])).logits[0].log_softmax(-1), len(before)


@pytest.mark.parametrize("shape", ["llama", "gpt2", "gemma3"])
def test_a_lens_puts_every_state_through_the_last_norm_and_the_head(shape: Any) -> None:
    model: Any = tiny_model(toy_tokenizer("bpe"), shape)
    lens = Lens(model, FIRST)
    assert lens.fits
    seen = lens.look([5, 6, 7, 8], [1, 3])
    with torch.no_grad():
        output = model(torch.tensor([[5, 6, 7, 8]]), output_hidden_states=True)
        assert_close(seen.logs[-1], output.logits[0, [1, 3], :FIRST].log_softmax(-1), rtol=0, atol=1e-5)
        norm = model.transformer.ln_f if shape == "gpt2" else model.model.norm
        for layer in range(len(output.hidden_states) - 1):
            wanted = model.lm_head(norm(output.hidden_states[layer][0, [1, 3]]))[:, :FIRST].log_softmax(-1)
            assert_close(seen.logs[layer], wanted, rtol=0, atol=1e-5)
    assert_close(seen.logs.exp().sum(-1), torch.ones(3, 2), rtol=0, atol=1e-5)
