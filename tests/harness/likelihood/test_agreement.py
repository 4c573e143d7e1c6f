"""Agreement with a teacher at common byte boundaries: laws, hand-computed values, and a whole run."""

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_models import toy_checkpoint
from hypothesis import given
from hypothesis import strategies as st
from toy_tokenizers import TEXT as LONG_TEXT

from crosstok.distill.tokenizers.alignment import align
from crosstok.errors import UserError
from crosstok.harness.jobs.run import run_suite
from crosstok.harness.likelihood.agreement import NO_TEXT, Agreement, agree, binary_kl, kl
from crosstok.harness.plan.plan import make_plan
from crosstok.harness.plan.suite import check_suite
from crosstok.results.store.records import Progress
from crosstok.results.store.store import Store
from crosstok.results.tables.frame import comparison_frame, render
from crosstok.tasks.task import Rolling

TEXT = LONG_TEXT[:160]  # the toy models read at most 512 tokens
LOGS = st.lists(st.floats(-20, -1e-6), min_size=1, max_size=8)


def whole(text: str) -> Rolling:
    return Rolling(text, 4096, 4096)


@pytest.mark.parametrize("name", ["bpe", "byte"])
def test_a_model_agrees_with_itself_in_everything(name: str) -> None:
    model = toy_checkpoint(name)
    found = Agreement(model, model).of(Rolling(TEXT, 64, 32))
    count = found["boundaries"]
    assert count == len(model.tokenbytes.encode(TEXT).ids) - 1
    assert (found["top1"], found["text"]) == (count, count)
    for measure in ("byte_kl", "chunk_kl", "token_kl"):
        assert found[measure] == pytest.approx(0, abs=1e-9)


def test_the_offsets_are_those_at_which_both_tokenizations_have_an_end() -> None:
    teacher, model = toy_checkpoint("bpe"), toy_checkpoint("byte")
    found = Agreement(model, teacher).of(whole(TEXT))
    ends = align(teacher.tokenbytes.encode(TEXT).ends, model.tokenbytes.encode(TEXT).ends).ends
    assert found["boundaries"] == len(ends) - 1
    assert found["bytes"] == ends[-1] - ends[0]
    assert "token_kl" not in found


def distributions(checkpoint: Any, text: str) -> tuple[list[int], torch.Tensor]:
    """Every next-token distribution of one pass over the text, straight from the model, in double precision."""
    first = checkpoint.bos_id if checkpoint.bos_id is not None else checkpoint.roles.end_of_text
    ids = checkpoint.tokenbytes.encode(text).ids.tolist()
    with torch.no_grad():
        logits = checkpoint.model(torch.tensor([[first, *ids]])).logits[0, :, : checkpoint.valid_rows]
    return ids, logits.double().softmax(-1)


def test_sums_equal_those_of_a_plain_computation_over_two_tokenizers() -> None:
    teacher, model = toy_checkpoint("bpe"), toy_checkpoint("byte", "gpt2")
    text = TEXT[:60]
    found = Agreement(model, teacher).of(whole(text))
    sides = []
    for side in (teacher, model):
        ids, rows = distributions(side, text)
        ends = side.tokenbytes.encode(text).ends.tolist()
        table = side.tokenbytes.table
        front = dict(zip([0, *ends], rows, strict=True))  # byte offset: distribution of what comes next
        chosen = {end: float(rows[n, number]) for n, (number, end) in enumerate(zip(ids, ends, strict=True))}
        by_byte: dict[int, list[float]] = {}
        for offset, row in front.items():
            mass = [0.0] * (NO_TEXT + 1)
            for number, value in enumerate(row.tolist()):
                data = table[number] if number < len(table) else None
                mass[data[0] if data else NO_TEXT] += value
            by_byte[offset] = mass
        sides.append((set(ends), chosen, by_byte))
    common = sorted(sides[0][0] & sides[1][0])
    byte_kl = chunk_kl = top1 = 0.0
    for start, end in itertools.pairwise(common):
        p, q = (
            float(math.prod(value for offset, value in chosen.items() if start < offset <= end))
            for _, chosen, _ in sides
        )
        chunk_kl += p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
        one, other = sides[0][2][start], sides[1][2][start]
        byte_kl += sum(a * math.log(a / b) for a, b in zip(one, other, strict=True) if a)
        top1 += one.index(max(one)) == other.index(max(other))
    assert found["boundaries"] == len(common) - 1
    assert found["byte_kl"] == pytest.approx(byte_kl, rel=1e-4)
    assert found["chunk_kl"] == pytest.approx(chunk_kl, rel=1e-4, abs=1e-7)
    assert found["top1"] == top1


def test_every_offset_of_a_long_text_is_compared_once_whatever_the_window() -> None:
    pair = Agreement(toy_checkpoint("byte"), toy_checkpoint("bpe"))
    whole_text, windows = pair.of(whole(TEXT)), pair.of(Rolling(TEXT, 48, 16))
    assert (windows["boundaries"], windows["bytes"]) == (whole_text["boundaries"], whole_text["bytes"])


def test_a_finer_measure_never_falls_below_a_coarser_one() -> None:
    teacher, model = toy_checkpoint("bpe"), toy_checkpoint("bpe", "gpt2")
    found = Agreement(model, teacher).of(whole(TEXT))
    assert found["token_kl"] >= found["byte_kl"] > 0
    assert found["token_kl"] >= found["chunk_kl"] > 0


def test_hand_computed_divergences() -> None:
    p, q = torch.tensor([0.5]).log(), torch.tensor([0.25]).log()
    assert float(binary_kl(p, q)) == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))
    assert float(binary_kl(torch.tensor([0.0]), torch.tensor([0.0]))) == 0
    of, to = torch.tensor([[0.5, 0.5, 0.0]]).log(), torch.tensor([[0.25, 0.5, 0.25]]).log()
    assert float(kl(of, to)) == pytest.approx(0.5 * math.log(2))


@given(LOGS, LOGS)
def test_a_binary_divergence_is_finite_and_never_negative(one: list[float], other: list[float]) -> None:
    size = min(len(one), len(other))
    found = binary_kl(torch.tensor(one[:size]), torch.tensor(other[:size]))
    assert bool((found >= 0).all())
    assert bool(found.isfinite().all())


def test_next_tokens_agree_where_one_begins_with_the_other() -> None:
    assert agree(b"the", b"t", exact=False)
    assert not agree(b"the", b"t", exact=True)
    assert not agree(b"the", b"a", exact=False)
    assert agree(b"", b"", exact=False)
    assert not agree(b"", b"t", exact=False)


def test_a_window_that_the_teacher_cannot_read_is_one_clear_line() -> None:
    teacher = toy_checkpoint("byte")
    teacher.model.config.max_position_embeddings = 16
    with pytest.raises(UserError, match="has 33 tokens; the context of a model is 16"):
        Agreement(toy_checkpoint("bpe"), teacher).of(Rolling("a" * 32, 64, 64))


# --- a whole run ---


def test_agreement_is_stored_per_document_and_shown_in_the_table(
    suite_content: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CROSSTOK_CACHE", str(tmp_path / "cache"))
    content = suite_content()
    content["tasks"] = content["tasks"][1:]
    plain = {cell.model.name: cell.fingerprint for cell in make_plan(check_suite(content, "test")).cells}
    suite = check_suite({**content, "agreement_with": "base"}, "test")
    planned = {cell.model.name: cell.fingerprint for cell in make_plan(suite).cells}
    assert planned["base"] == plain["base"], "the teacher is measured as ever"
    assert planned["fvt"] != plain["fvt"]
    with Store(tmp_path / "s.db") as store:
        outcome = run_suite(suite, store)
        assert outcome.status is Progress.COMPLETE
        facts = [sample.facts["agreement"] for sample in store.samples(planned["fvt"])]
        assert len(facts) == 4
        assert {fact["with"] for fact in facts} == {"base"}
        assert all("agreement" not in sample.facts for sample in store.samples(planned["base"]))
        frame = comparison_frame(store).set_index("model")
    count = sum(fact["boundaries"] for fact in facts)
    assert frame.loc["fvt", "agreement_boundaries"] == count > 0
    assert frame.loc["fvt", "agreement_top1"] == pytest.approx(sum(fact["top1"] for fact in facts) / count)
    assert frame.loc["fvt", "agreement_byte_kl"] == pytest.approx(sum(fact["byte_kl"] for fact in facts) / count)
    assert frame["agreement_top1"].isna()["base"]
    assert "agreement with base" in render(frame.reset_index())


def test_a_teacher_that_the_suite_does_not_have_is_named(suite_content: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(UserError, match=r"agreement_with.*bas.*base"):
        check_suite(suite_content(agreement_with="bas"), "test")
