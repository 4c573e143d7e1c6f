"""Windows that share a row: the same loss and gradient as in rows of their own, and nothing crosses between them."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from loss_setups import model_info, read, setup
from tiny_training import STUDENT, TEACHER, first_gradient, losses, model, windows
from toy_tokenizers import TEXT

from crosstok.corpora import Text, Texts
from crosstok.distill.losses import AlignedBatch
from crosstok.distill.registry import LOSSES
from crosstok.distill.training.loop import TrainingSpec
from crosstok.distill.training.windows import Windows, cut, packed, stack
from crosstok.errors import UserError

PACKING = [
    "sft",
    "alm",
    {"name": "alm", "gamma": 1, "tau": 5},
    {"name": "alm", "gamma": 0.3, "debias": False, "tau": 5},
    "strict",
    "bpm",
    "uld",
    "gold",
    "mined",
]
DOCUMENTS = (TEXT[:70], "The sun was up", TEXT[200:230], "é", TEXT[300:395], "  x")


def name_of(choice: Any) -> str:
    return choice if isinstance(choice, str) else "-".join(map(str, choice.values()))


def source(*, pack: bool, size: int = 96) -> Windows:
    plain = windows()
    texts = Texts("toy", "train", tuple(Text(f"d{n}", text) for n, text in enumerate(DOCUMENTS)), {})
    return Windows(texts, plain.teacher, plain.student, size=size, seed=0, pack=pack)


def both(size: int = 96) -> tuple[AlignedBatch, AlignedBatch]:
    """Return the same windows in rows of their own and packed."""
    made = [source(pack=pack, size=size) for pack in (False, True)]
    return made[0].batch(made[0].windows), made[1].batch(made[1].windows)


def test_rows_hold_whole_windows_within_the_size() -> None:
    made = source(pack=True)
    pairs, _ = made._encode(made.windows)
    groups = packed(pairs, 96)
    assert sorted(pair.text for row in groups for pair in row) == sorted(DOCUMENTS)
    assert all(sum(len(pair.text.encode()) for pair in row) <= 96 for row in groups)
    assert len(groups) < len(DOCUMENTS)


def test_no_chunk_and_no_merged_group_crosses_two_windows() -> None:
    separate, together = both()
    assert len(together.student.ids) < len(separate.student.ids)
    assert int(together.scored.sum()) == int(separate.scored.sum())
    for gamma in (0.0, 0.5, 1.0):
        ready = setup({"name": "alm", "gamma": gamma}, model_info(STUDENT, 1), model_info(TEACHER, 0))
        with torch.no_grad():
            taught = [read(ready.teacher, batch.teacher, {"gold", "boundary"}) for batch in (separate, together)]
        counts = [ready.loss.count(batch, found) for batch, found in zip((separate, together), taught, strict=True)]
        assert counts[0] == counts[1]
        merged: AlignedBatch = ready.loss.merge(together, taught[1])  # type: ignore[attr-defined]  # of ALM
        for side in (merged.teacher, merged.student):
            windows_of = side.begins.long().cumsum(dim=1)
            for row in range(len(side.ids)):
                pairs = {(int(c), int(w)) for c, w in zip(side.chunks[row], windows_of[row], strict=True) if c >= 0}
                assert len({chunk for chunk, _ in pairs}) == len(pairs)


@pytest.mark.parametrize("shape", ["llama", "gpt2", "gemma3"])
@pytest.mark.parametrize("fused", [True, False])
def test_a_packed_window_is_read_as_if_it_were_alone(shape: Any, fused: bool) -> None:
    separate, together = both(size=256)
    reader = dataclasses.replace(model(STUDENT, 1).reader, fused=fused)
    network = model(STUDENT, 1, shape=shape).network
    found = []
    for batch in (separate, together):
        with torch.no_grad():
            outputs = reader.read(network, batch.student, {"gold", "boundary"})
        values = {}
        for row, first, stop in batch.student.windows():
            ids = tuple(batch.student.ids[row, first:stop].tolist())
            values[ids] = (outputs.gold[row, first + 1 : stop], outputs.boundary[row, first:stop])
        found.append(values)
    assert found[0].keys() == found[1].keys()
    assert len(found[0]) == len(DOCUMENTS)
    for ids, alone in found[0].items():
        for left, right in zip(alone, found[1][ids], strict=True):
            assert torch.allclose(left, right, atol=1e-4)


@pytest.mark.parametrize("choice", PACKING, ids=name_of)
def test_a_packed_batch_has_the_loss_of_separate_windows(choice: Any) -> None:
    ready = setup(choice, model_info(STUDENT, 1), model_info(TEACHER, 0))
    found = [ready.term(batch) for batch in both()]
    assert found[0].count == found[1].count > 0
    assert float(found[1].sum.detach()) == pytest.approx(float(found[0].sum.detach()), rel=1e-4)


def test_a_packed_step_has_the_gradient_of_a_plain_one(tmp_path: Path) -> None:
    gradients = []
    for pack in (False, True):
        plain = windows()
        documents = tuple(Text(f"d{n}", part) for n, part in enumerate(cut(TEXT[:600], 40)))
        texts = Texts("toy", "train", documents, {})
        source = Windows(texts, plain.teacher, plain.student, size=96, seed=0, pack=pack)
        spec = TrainingSpec(steps=1, batch=8, clip=1e9, pack=pack)
        gradients.append(first_gradient(spec, tmp_path, losses("alm", "sft"), source=source))
    assert torch.allclose(gradients[1][0], gradients[0][0], rtol=1e-3, atol=1e-5 * float(gradients[0][0].abs().max()))
    assert gradients[1][1]["count"] == gradients[0][1]["count"]
    assert gradients[1][1]["loss"] == pytest.approx(gradients[0][1]["loss"], rel=1e-5)


def test_a_row_without_neighbours_needs_no_positions() -> None:
    made = source(pack=False)
    pairs, _ = made._encode(made.windows)
    assert stack([[pair] for pair in pairs]).student.positions is None


@pytest.mark.parametrize("choice", ["hidden", "dskd"])
def test_a_loss_that_reads_whole_rows_refuses_packing(tmp_path: Path, choice: str) -> None:
    assert not LOSSES.find(choice).packs
    with pytest.raises(UserError, match=f"loss {choice} cannot be used with packing.*Set pack: false"):
        first_gradient(TrainingSpec(steps=1, batch=2, pack=True), tmp_path, losses(choice))
