"""Parameters that a loss learns: trained, resumed bit for bit, not part of the saved student."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import STUDENT, TEACHER, losses, model, windows

from crosstok.distill.losses import Loss
from crosstok.distill.training.loop import TrainingSpec, train


class Interrupted(Exception):
    pass


def go(folder: Path, chosen: list[Loss], spec: TrainingSpec, **options: Any) -> Any:
    folder.mkdir(exist_ok=True)
    student = model(STUDENT, 1)
    train(student, model(TEACHER, 0, width=48), windows(), chosen, spec, folder=folder, device="cpu", **options)
    return student.network


def weights(loss: Loss) -> dict[str, torch.Tensor]:
    assert loss.learned is not None
    return loss.learned.state_dict()


@pytest.mark.parametrize("choice", ["hidden", "dskd"])
def test_projections_are_trained_and_continue_to_the_same_bits(tmp_path: Path, choice: str) -> None:
    spec = TrainingSpec(steps=5, batch=3, lr=1e-3, warmup=0, save_every=2)
    first, whole, again = losses(choice), losses(choice), losses(choice)
    go(tmp_path / "first", first, spec.model_copy(update={"steps": 1}))
    expected = go(tmp_path / "whole", whole, spec)
    moved = [not torch.equal(value, weights(whole[0])[key]) for key, value in weights(first[0]).items()]
    assert all(moved)

    def kill(*_: Any) -> None:
        if (tmp_path / "cut" / "state-4").exists():
            raise Interrupted

    with pytest.raises(Interrupted):
        go(tmp_path / "cut", losses(choice), spec, progress=kill)
    resumed = go(tmp_path / "cut", again, spec)
    assert all(torch.equal(value, expected.state_dict()[key]) for key, value in resumed.state_dict().items())
    assert all(torch.equal(value, weights(whole[0])[key]) for key, value in weights(again[0]).items())
    assert not any("query" in key or "projection" in key for key in resumed.state_dict())


def test_a_larger_teacher_is_approached_through_the_projection(tmp_path: Path) -> None:
    from crosstok.distill.training.log import read_log
    from crosstok.distill.training.loop import LOG

    go(tmp_path / "run", losses({"name": "hidden", "lr": 1e-2}), TrainingSpec(steps=25, batch=4, lr=3e-3, warmup=2))
    lines = read_log(tmp_path / "run" / LOG)
    assert lines[-1]["loss"]["hidden"] < 0.8 * lines[0]["loss"]["hidden"]
