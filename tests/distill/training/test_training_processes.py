"""Two processes on the CPU (gloo) do the same step as one."""

import multiprocessing
import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import STUDENT, TEACHER, first_gradient, losses, model, windows

from crosstok.distill.training.loop import TrainingSpec, train

CHOICES = (
    ("sft", {"name": "alm", "tau": 5}),
    ("hidden", "sft"),  # with a projection, since the widths differ
    ("dskd",),
    ("strict",),
)


def _gradients(spec: TrainingSpec, folder: Path) -> list[tuple[torch.Tensor, dict[str, Any]]]:
    return [first_gradient(spec, folder, losses(*chosen), teacher_width=48) for chosen in CHOICES]


def _untied_steps(folder: Path) -> torch.Tensor:
    """Return the parameters after two steps on a loss that does not reach the student's output matrix."""
    folder.mkdir(exist_ok=True)
    student = model(STUDENT, 1, tied=False)
    spec = TrainingSpec(steps=2, batch=4, warmup=0, lr=1e-3)
    train(student, model(TEACHER, 0), windows(), losses("hidden"), spec, folder=folder, device="cpu")
    return torch.cat([weight.detach().flatten() for weight in student.network.parameters()])


def _worker(rank: int, port: int, spec: TrainingSpec, folder: Path) -> None:
    torch.set_num_threads(1)
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({key: str(value) for key, value in place.items()} | {"ACCELERATE_USE_CPU": "true"})
    torch.save((_gradients(spec, folder), _untied_steps(folder / "untied")), folder / f"{rank}.pt")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.enable_socket  # the two processes meet on the loopback interface
def test_two_processes_give_the_gradient_and_the_steps_of_one(tmp_path: Path) -> None:
    spec = TrainingSpec(steps=1, batch=7, micro_batch=2, clip=1e9)  # 4 windows for one process, 3 for the other
    context = multiprocessing.get_context("spawn")
    port = _free_port()
    workers = [context.Process(target=_worker, args=(rank, port, spec, tmp_path)) for rank in range(2)]
    for worker in workers:
        worker.start()
    alone, stepped = _gradients(spec, tmp_path), _untied_steps(tmp_path / "alone")
    for worker in workers:
        worker.join(timeout=240)
        assert worker.exitcode == 0
    for rank in range(2):
        together, stepped_together = torch.load(tmp_path / f"{rank}.pt")
        for (gradient, line), (expected, expected_line) in zip(together, alone, strict=True):
            assert torch.allclose(gradient, expected, rtol=1e-3, atol=2e-5 * float(expected.abs().max()))
            for figure in ("loss", "count", "metrics"):
                assert line[figure] == pytest.approx(expected_line[figure], rel=1e-4)
            assert line["bytes"] == expected_line["bytes"]
        # Adam divides a gradient by its own size: where it is almost zero, rounding alone moves a weight visibly.
        apart = (stepped_together - stepped).abs()
        assert float((apart > 1e-5).float().mean()) < 1e-3
        assert float(apart.max()) < 1e-4, "a tenth of a step"
