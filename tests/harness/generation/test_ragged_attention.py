"""Attention in groups of rows: which groups, the same results, the model as it was, rows that move and lose nothing."""

import math
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_models import toy_checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import tiny_model
from toy_tokenizers import TEXT, toy_tokenizer
from transformers import DynamicCache, PreTrainedModel

import crosstok.harness.generation.key_value_cache
import crosstok.harness.generation.ragged_attention
from crosstok.distill.ensemble import save_ensemble
from crosstok.distill.models import checkpoints
from crosstok.harness.generation.generator import Generator
from crosstok.harness.generation.key_value_cache import PrefilledPrompts, RowCache
from crosstok.harness.generation.ragged_attention import RowGroup, group_rows, grouped_attention
from crosstok.tasks.task import Generate

SHAPES = ("llama", "gpt2", "gemma3")
LENGTHS = [90, 88, 85, 40, 39, 7, 3, 3]


@pytest.fixture
def free_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a call cost nothing, so that rows are cut wherever a column can be saved."""
    monkeypatch.setattr(crosstok.harness.generation.key_value_cache, "CALL_COST", 0)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Return a list that fills with the rows and columns of the keys of every call of attention in groups."""
    found: list[tuple[int, int]] = []
    plain = crosstok.harness.generation.ragged_attention.sdpa_attention_forward

    def attend(
        module: Any, query: Any, key: torch.Tensor, value: Any, mask: torch.Tensor | None, **options: Any
    ) -> Any:
        assert mask is not None, "query heads would read their key head one after the other"
        found.append((key.shape[0], key.shape[2]))
        return plain(module, query, key, value, mask, **options)

    monkeypatch.setattr(crosstok.harness.generation.ragged_attention, "sdpa_attention_forward", attend)
    return found


# --- which groups ---


def test_rows_are_cut_where_that_saves_the_most_columns() -> None:
    # Between 9 and 4: two rows save 5 columns each. Then between 10 and 9 a cut would save one column.
    assert group_rows([10, 9, 4, 4], call_cost=2) == [RowGroup(0, 2, 0), RowGroup(2, 4, 6)]
    assert group_rows([10, 9, 4, 4], call_cost=0) == [RowGroup(0, 1, 0), RowGroup(1, 2, 1), RowGroup(2, 4, 6)]


def test_a_cut_must_save_more_than_a_call_costs() -> None:
    # Behind row 0: two rows by six columns.
    assert group_rows([10, 4, 4], call_cost=12) == [RowGroup(0, 3, 0)]
    assert group_rows([10, 4, 4], call_cost=11.9) == [RowGroup(0, 1, 0), RowGroup(1, 3, 6)]


def test_a_long_row_that_came_late_is_read_apart_from_the_short_ones_before_it() -> None:
    assert group_rows([3, 3, 10], call_cost=5) == [RowGroup(0, 2, 7), RowGroup(2, 3, 0)]


def test_rows_of_one_length_are_one_run_and_no_rows_none() -> None:
    assert group_rows([5] * 9, call_cost=0) == [RowGroup(0, 9, 0)]
    assert group_rows([], call_cost=0) == []


@given(st.lists(st.integers(1, 200), min_size=1, max_size=40), st.integers(0, 300))
def test_groups_hold_every_row_once_and_all_that_belongs_to_it(lengths: list[int], call: int) -> None:
    groups, columns = group_rows(lengths, call), max(lengths)
    assert [groups[0].first, groups[-1].end] == [0, len(lengths)]
    assert all(before.end == after.first for before, after in pairwise(groups))
    assert all(group.start == columns - max(lengths[group.first : group.end]) for group in groups)
    read = sum((group.end - group.first) * (columns - group.start) for group in groups)
    assert read + call * (len(groups) - 1) <= len(lengths) * columns, "more was read than by one group"


@given(st.lists(st.integers(1, 200), min_size=1, max_size=40))
def test_free_calls_read_no_padding_of_sorted_rows(lengths: list[int]) -> None:
    groups = group_rows(sorted(lengths, reverse=True), 0)
    assert sum((group.end - group.first) * (max(lengths) - group.start) for group in groups) == sum(lengths)


# --- the same results ---


def step(model: PreTrainedModel, groups: list[RowGroup] | None, lengths: list[int]) -> torch.Tensor:
    """Read rows of random ids, padded on the left, then one id more for each, in groups or as the model itself does."""
    columns = max(lengths)
    ids = torch.randint(5, 100, (len(lengths), columns + 1), generator=torch.Generator().manual_seed(1))
    mask = torch.tensor([[0] * (columns - length) + [1] * (length + 1) for length in lengths])
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    cache = DynamicCache()  # keeps all columns in sliding layers, as the batch's own does
    with torch.inference_mode():
        model(ids[:, :-1], attention_mask=mask[:, :-1], position_ids=positions[:, :-1], past_key_values=cache)
        with nullcontext() if groups is None else grouped_attention(groups, model, cache):
            return model(ids[:, -1:], attention_mask=mask, position_ids=positions[:, -1:], past_key_values=cache).logits


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("lengths", [LENGTHS, [40] * 3, [9]])
def test_a_step_in_groups_equals_the_model_s_own(shape: Any, lengths: list[int], calls: list[tuple[int, int]]) -> None:
    model = tiny_model(toy_tokenizer("bpe"), shape)
    groups = group_rows([length + 1 for length in lengths], 10)
    torch.testing.assert_close(step(model, groups, lengths), step(model, None, lengths), rtol=1e-4, atol=1e-4)
    columns = max(lengths) + 1
    assert calls == 2 * [(group.end - group.first, columns - group.start) for group in groups], (
        "two layers, in these groups alone"
    )
    assert (len(groups) > 1) == (lengths is LENGTHS)


def test_what_a_run_leaves_out_is_not_looked_at() -> None:
    # Cut one column too deep into the last rows: if groups did nothing, this would change nothing.
    model = tiny_model(toy_tokenizer("bpe"))
    right, wrong = [RowGroup(0, 6, 0), RowGroup(6, 8, 87)], [RowGroup(0, 6, 0), RowGroup(6, 8, 88)]
    difference = (step(model, right, LENGTHS) - step(model, wrong, LENGTHS)).abs().amax(dim=(1, 2))
    assert torch.equal(difference > 1e-3, torch.tensor([False] * 6 + [True] * 2))


def test_the_model_attends_as_before_when_the_step_is_over_or_has_failed() -> None:
    model = tiny_model(toy_tokenizer("bpe"))
    groups = [RowGroup(0, 1, 0), RowGroup(1, 2, 1)]
    assert model.config._attn_implementation == "sdpa"
    with grouped_attention(groups, model, DynamicCache()):
        assert model.config._attn_implementation == "crosstok_grouped"
    assert model.config._attn_implementation == "sdpa"
    with pytest.raises(RuntimeError, match="out of memory"), grouped_attention(groups, model, DynamicCache()):
        raise RuntimeError("out of memory")
    assert model.config._attn_implementation == "sdpa"


def test_a_model_with_another_attention_keeps_it(calls: list[tuple[int, int]]) -> None:
    model = tiny_model(toy_tokenizer("bpe"))
    together = step(model, None, LENGTHS)
    model.set_attn_implementation("eager")
    groups = group_rows([length + 1 for length in LENGTHS], 10)
    torch.testing.assert_close(step(model, groups, LENGTHS), together, rtol=1e-4, atol=1e-4)
    assert not calls
    assert model.config._attn_implementation == "eager"


# --- rows that move ---


def read_rows(values: list[list[int]]) -> PrefilledPrompts:
    """Return prompts whose keys are these numbers, padded on the left with -1."""
    columns = max(len(row) for row in values)
    keys = torch.tensor([[-1] * (columns - len(row)) + row for row in values]).float()[:, None, :, None]
    cache = DynamicCache()
    cache.update(keys, keys.clone(), 0)
    return PrefilledPrompts(cache, [len(row) for row in values])


@pytest.mark.usefixtures("free_calls")
@settings(max_examples=200)
@given(st.data())
def test_rows_that_come_grow_and_go_keep_what_is_theirs(data: st.DataObject) -> None:
    cache, number = RowCache(slots=8), 0
    rows: list[list[int]] = []
    for _ in range(data.draw(st.integers(1, 25))):
        room = 8 - len(rows)
        if room and (not rows or data.draw(st.booleans())):
            lengths = data.draw(st.lists(st.integers(1, 30), min_size=1, max_size=room))
            new = [[number := number + 1 for _ in range(length)] for length in sorted(lengths, reverse=True)]
            cache.insert(read_rows(new), range(len(new)))
            rows += new
        elif data.draw(st.booleans()):
            column = torch.arange(number + 1.0, number + 1 + len(rows))[:, None, None, None]
            with torch.inference_mode():
                cache.cache.update(column, column, 0)
            cache.advance()
            rows = [[*row, number + 1 + place] for place, row in enumerate(rows)]
            number += len(rows)
        else:
            moves = cache.drop(data.draw(st.integers(0, len(rows) - 1)))
            for to, origin in moves:
                rows[to] = rows[origin]
            rows.pop()
        held = cache.cache.layers[0].keys[: len(rows), 0, : cache._region.end, 0]
        assert cache.lengths == [len(row) for row in rows]
        assert [row[-length:].tolist() for row, length in zip(held, cache.lengths, strict=True)] == rows
        assert cache.groups == group_rows(cache.lengths, 0)


@pytest.mark.usefixtures("free_calls")
def test_a_row_that_ends_is_replaced_by_the_last_of_its_run_and_so_on() -> None:
    cache = RowCache(slots=6)
    cache.insert(read_rows([[1] * 9, [2] * 9, [3] * 9, [4] * 5, [5] * 5, [6] * 2]), range(6))
    assert cache.drop(0) == [(0, 2), (2, 4), (4, 5)]
    assert cache.lengths == [9, 9, 5, 5, 2], "as well sorted as before, one row copied for each group"
    assert cache.drop(4) == []


# --- whole answers ---

PROMPTS = [TEXT[at : at + size] for at, size in ((0, 300), (50, 280), (9, 120), (200, 60), (77, 50), (31, 9), (3, 2))]


@pytest.mark.usefixtures("free_calls")
@pytest.mark.parametrize("shape", SHAPES)
def test_answers_with_grouped_attention_equal_generates_only(shape: Any, calls: list[tuple[int, int]]) -> None:
    checkpoint = toy_checkpoint("bpe", shape)
    requests = [Generate(prompt, max_bytes=30 + 9 * number) for number, prompt in enumerate(PROMPTS)]
    alone = [next(iter(Generator(checkpoint, max_batch_rows=1).generate([request]))).data for request in requests]
    assert {rows for rows, _ in calls} == {1}
    calls.clear()
    generator = Generator(checkpoint, max_batch_rows=5, max_prefill_tokens=400)
    together = {one.index: one.data for one in generator.generate(requests)}
    assert [together[index] for index in range(len(requests))] == alone
    assert sum(columns * rows for rows, columns in calls) == 2 * generator.counts.columns_read, "two layers"
    assert generator.counts.columns <= generator.counts.columns_read < 1.1 * generator.counts.columns


def test_without_a_cut_worth_its_call_all_rows_are_read_at_once(calls: list[tuple[int, int]]) -> None:
    generator = Generator(toy_checkpoint("bpe"), max_batch_rows=5)
    assert len(list(generator.generate([Generate(prompt, max_bytes=40) for prompt in PROMPTS]))) == len(PROMPTS)
    assert sum(columns * rows for rows, columns in calls) == 2 * generator.counts.columns_read, "two layers"
    assert generator.counts.columns_read > 1.3 * generator.counts.columns


@pytest.mark.usefixtures("free_calls")
@pytest.mark.parametrize(("second", "tokens"), [("bpe", None), ("bos", "shared"), ("spm", "mined")])
def test_members_of_an_ensemble_attend_in_groups_only_where_the_keys_are_the_batch_s(
    tmp_path: Path, second: str, tokens: str | None, calls: list[tuple[int, int]]
) -> None:
    folders = []
    for seed, name in enumerate(("bpe", second)):
        folder = tmp_path / f"{seed}"
        tokenizer = toy_tokenizer(name)
        tiny_model(tokenizer, seed=seed).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        folders.append(folder)
    options = {} if tokens is None else {"tokens": tokens}
    pair = checkpoints.load(save_ensemble(tmp_path / "pair", folders, **options))
    requests = [Generate(prompt, max_bytes=25) for prompt in PROMPTS[1:]]
    alone = [next(iter(Generator(pair, max_batch_rows=1).generate([request]))).data for request in requests]
    together = {one.index: one.data for one in Generator(pair, max_batch_rows=4).generate(requests)}
    assert [together[index] for index in range(len(requests))] == alone
    assert bool(calls) == (tokens is None)


def test_a_call_is_never_worth_it_where_it_was_not_measured() -> None:
    assert group_rows([500, 1, 1, 1], math.inf) == [RowGroup(0, 4, 0)]
