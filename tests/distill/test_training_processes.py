"""Two processes on the CPU (gloo) do the same step as one."""

import multiprocessing
import os
import socket
from pathlib import Path

import pytest
import torch
from tiny_training import first_gradient, losses

from distill.training import TrainingSpec

CHOSEN = ("sft", {"name": "alm", "tau": 5})


def _worker(rank: int, port: int, spec: TrainingSpec, folder: Path) -> None:
    torch.set_num_threads(1)
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({key: str(value) for key, value in place.items()} | {"ACCELERATE_USE_CPU": "true"})
    torch.save(first_gradient(spec, folder, losses(*CHOSEN)), folder / f"{rank}.pt")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.enable_socket  # the two processes meet on the loopback interface
def test_two_processes_give_the_gradient_of_one(tmp_path: Path) -> None:
    spec = TrainingSpec(steps=1, batch=7, micro_batch=2, clip=1e9)  # 4 windows for one process, 3 for the other
    context = multiprocessing.get_context("spawn")
    port = _free_port()
    workers = [context.Process(target=_worker, args=(rank, port, spec, tmp_path)) for rank in range(2)]
    for worker in workers:
        worker.start()
    alone, line = first_gradient(spec, tmp_path, losses(*CHOSEN))
    for worker in workers:
        worker.join(timeout=240)
        assert worker.exitcode == 0
    for rank in range(2):
        together, same_line = torch.load(tmp_path / f"{rank}.pt")
        assert torch.allclose(together, alone, rtol=1e-3, atol=1e-5 * float(alone.abs().max()))
        for figure in ("loss", "count", "metrics"):
            assert same_line[figure] == pytest.approx(line[figure], rel=1e-5)
        assert same_line["bytes"] == line["bytes"]
