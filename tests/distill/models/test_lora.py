"""LoRA: starts as the model was, shares its weights with the teacher, ends as a plain model."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import STUDENT, TEACHER, losses, model, windows
from toy_tokenizers import toy_tokenizer

from crosstok.distill.embeddings.transplant import transplant
from crosstok.distill.losses import Reader
from crosstok.distill.models.lora import adapter_weights, attach, bytes_held, embedding_matrices, merge, share
from crosstok.distill.registry import INITIALISERS
from crosstok.distill.tokenizers.tokenbytes import TokenBytes
from crosstok.distill.training.loop import Model, TrainingSpec, train

IDS = torch.arange(12)[None]


def logits(network: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = network(IDS).logits
    return found


@pytest.mark.parametrize("shape", ["llama", "gpt2", "gemma3"])
def test_adapters_change_nothing_at_first_and_merging_keeps_what_they_learnt(shape: Any) -> None:
    network: Any = model(TEACHER, 0, shape=shape).network
    names = set(network.state_dict())
    before = logits(network)
    attach(network, 4, 8)
    assert torch.equal(logits(network), before)
    layers = 2 * {"llama": 7, "gpt2": 4, "gemma3": 7}[shape]
    assert len(adapter_weights(network)) == 2 * layers
    torch.manual_seed(1)
    for weight in adapter_weights(network):
        weight.data.normal_(std=0.1)
    learnt = logits(network)
    assert float((learnt - before).abs().max()) > 1e-2
    merge(network)
    assert torch.allclose(logits(network), learnt, atol=1e-4)
    assert set(network.state_dict()) == names
    assert not hasattr(network, "peft_config")


def tokens(name: str) -> TokenBytes:
    return TokenBytes.from_tokenizer(toy_tokenizer(name))


def shared_pair(**options: Any) -> tuple[Model, Model]:
    """Return a teacher and a student for another tokenizer that is made of its tensors."""
    teacher = model(TEACHER, 0, **options)
    student: Any = share(teacher.network)
    transplant(student, INITIALISERS.create("fvt"), tokens(TEACHER), tokens(STUDENT), {})
    return teacher, Model(student, Reader.of(tokens(STUDENT), tokens(STUDENT).size))


@pytest.mark.parametrize("tied", [True, False])
def test_teacher_and_student_hold_the_frozen_weights_once(tied: bool) -> None:
    teacher, student = shared_pair(tied=tied, width=64)
    theirs = bytes_held([teacher.network])
    embeddings = sum(weight.numel() * 4 for weight in embedding_matrices(student.network))
    assert bytes_held([teacher.network, student.network]) == theirs + embeddings
    attach(student.network, 2, 2)
    adapters = sum(weight.numel() * 4 for weight in adapter_weights(student.network))
    assert bytes_held([teacher.network, student.network]) == theirs + embeddings + adapters
    assert bytes_held([copy.deepcopy(teacher.network), student.network]) > theirs + embeddings + adapters


def test_a_shared_copy_has_embeddings_of_its_own() -> None:
    teacher = model(TEACHER, 0)
    student: Any = share(teacher.network)
    before = logits(teacher.network)
    with torch.no_grad():
        student.get_input_embeddings().weight.mul_(2)
    assert torch.equal(logits(teacher.network), before)
    assert student.get_output_embeddings().weight is student.get_input_embeddings().weight


@pytest.mark.parametrize("way", ["lora", "embeddings"])
def test_self_transfer_with_shared_weights_trains_the_student_and_leaves_the_teacher(tmp_path: Path, way: Any) -> None:
    teacher, student = shared_pair()
    before = copy.deepcopy(teacher.network.state_dict())
    untrained = logits(student.network)
    spec = TrainingSpec(steps=3, batch=4, lr=1e-3, warmup=0, train=way, lora_rank=4)
    train(student, teacher, windows(), losses({"name": "alm", "tau": 5}), spec, folder=tmp_path, device="cpu")
    assert all(torch.equal(value, before[key]) for key, value in teacher.network.state_dict().items())
    assert float((logits(student.network) - untrained).abs().max()) > 1e-3
    network: Any = student.network
    moved = [
        name
        for name, value in network.state_dict().items()
        if name in before and value.shape == before[name].shape and not torch.equal(value, before[name])
    ]
    maps = [name for name in moved if "_proj" in name]
    assert len(maps) == (14 if way == "lora" else 0)
    assert not any("norm" in name for name in moved)


def test_shared_and_copied_weights_give_the_same_student(tmp_path: Path) -> None:
    spec = TrainingSpec(steps=3, batch=4, lr=1e-3, warmup=0, train="lora", lora_rank=4)
    found = []
    for name in ("shared", "copied"):
        (tmp_path / name).mkdir()
        teacher, student = shared_pair()
        if name == "copied":
            teacher = Model(copy.deepcopy(teacher.network), teacher.reader)
        train(student, teacher, windows(), losses("alm"), spec, folder=tmp_path / name, device="cpu")
        found.append(student.network.state_dict())
    assert all(torch.equal(value, found[1][key]) for key, value in found[0].items())


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("choice", ["alm", "hidden", "dskd"])
def test_a_lora_run_that_was_killed_continues_to_the_same_bits(tmp_path: Path, choice: str) -> None:
    spec = TrainingSpec(steps=5, batch=3, lr=1e-3, warmup=0, save_every=2, train="lora", lora_rank=4)
    found: list[dict[str, torch.Tensor]] = []
    for name in ("whole", "cut", "cut"):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)

        def kill(*_: Any, folder: Path = folder) -> None:
            if folder.name == "cut" and len(found) == 1 and (folder / "state-4").exists():
                raise Interrupted

        student, teacher = model(STUDENT, 1), model(TEACHER, 0, width=48)
        try:
            train(student, teacher, windows(), losses(choice), spec, folder=folder, device="cpu", progress=kill)
        except Interrupted:
            assert name == "cut"
        found.append(student.network.state_dict())
    assert len(found) == 3
    assert found[2].keys() == found[0].keys()
    assert all(torch.equal(value, found[2][key]) for key, value in found[0].items())
