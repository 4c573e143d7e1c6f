"""Transfer end to end on tiny models: what must be exact is exact, what must learn learns, a kill costs nothing."""

import json
import math
import multiprocessing
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from tiny_models import tiny_model
from tokenizers import Tokenizer
from toy_tokenizers import TEXT, toy_tokenizer
from transformers import PreTrainedTokenizerFast

from crosstok.corpora import Text, Texts, load_texts
from crosstok.distill.ensemble import save_ensemble
from crosstok.distill.losses import Reader
from crosstok.distill.losses.alm import ALM
from crosstok.distill.losses.sft import SFT
from crosstok.distill.models import checkpoints
from crosstok.distill.models.checkpoints import Checkpoint
from crosstok.distill.recipes.options import TransferSpec
from crosstok.distill.recipes.student import check_student, make_student
from crosstok.distill.training.log import read_log
from crosstok.distill.training.loop import LOG, Model, TrainingSpec, train
from crosstok.distill.training.windows import Encoder, Windows
from crosstok.errors import UserError

if TYPE_CHECKING:
    from crosstok.distill.losses import AlignedBatch, Outputs


def save_model(folder: Path, tokenizer: PreTrainedTokenizerFast, **options: Any) -> Path:
    tiny_model(tokenizer, **options).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def permuted(tokenizer: PreTrainedTokenizerFast, seed: int = 0) -> tuple[PreTrainedTokenizerFast, np.ndarray]:
    """Return the tokenizer with its ordinary ids shuffled, and the new id of each old one."""
    settings = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = settings["model"]["vocab"]
    special = {token["id"] for token in settings["added_tokens"]}
    ordinary = sorted(set(vocabulary.values()) - special)
    new = np.arange(len(tokenizer))
    new[ordinary] = np.random.default_rng(seed).permutation(ordinary)
    settings["model"]["vocab"] = {piece: int(new[index]) for piece, index in vocabulary.items()}
    backend = Tokenizer.from_str(json.dumps(settings))
    specials = {role: getattr(tokenizer, role) for role in ("bos_token", "eos_token", "pad_token")}
    return PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False, **specials), new


@pytest.fixture
def corpus(tmp_path: Path) -> str:
    """Return a text source of many small documents, two of which in six are held out."""
    lines = TEXT.splitlines(keepends=True)
    texts = ["".join(lines[first : first + 6]) for first in range(0, len(lines), 2)]
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps({"id": f"d{i}", "text": text}) + "\n" for i, text in enumerate(texts)), "utf-8")
    return f"jsonl:{path}"


def read_batch(teacher: Checkpoint, student: Checkpoint, texts: Texts) -> "tuple[AlignedBatch, Outputs, Outputs]":
    """Return all of ``texts`` as one batch, and the readings of both models."""
    encoders = [Encoder(side.tokenbytes, side.bos_id) for side in (teacher, student)]
    windows = Windows(texts, *encoders, size=256, seed=0)
    batch = windows.batch(windows.windows)
    with torch.no_grad():
        outs = [
            Reader.of(side.tokenbytes, side.valid_rows).read(side.model, half, {"gold", "boundary"})
            for side, half in ((teacher, batch.teacher), (student, batch.student))
        ]
    return batch, outs[0], outs[1]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", ["bpe", "bos"])
def test_a_permuted_copy_of_the_vocabulary_gives_permuted_logits_and_zero_loss(
    tmp_path: Path, name: str, tied: bool
) -> None:
    save_model(tmp_path / "source", toy_tokenizer(name), tied=tied)
    shuffled, new = permuted(toy_tokenizer(name))
    shuffled.save_pretrained(tmp_path / "tokenizer")
    spec = check_student("transfer", {"from": str(tmp_path / "source"), "tokenizer": str(tmp_path / "tokenizer")})
    student = checkpoints.load(make_student(spec, tmp_path / "student"))
    source = checkpoints.load(tmp_path / "source")

    ids = torch.tensor([source.tokenizer(TEXT[:300])["input_ids"]])
    order = torch.from_numpy(new)
    assert student.tokenizer(TEXT[:300])["input_ids"] == order[ids][0].tolist()
    with torch.no_grad():
        logits = source.model(input_ids=ids).logits
        assert torch.equal(student.model(input_ids=order[ids]).logits[..., order], logits)

    texts = Texts("toy", "train", (Text("d", TEXT),), {})
    batch, taught, read = read_batch(source, student, texts)
    for loss in (ALM(tau=1), ALM(tau=1, gamma=0, debias=False)):
        term = loss(batch, read, taught)
        assert term.count > 10
        assert float(term.sum) == pytest.approx(0, abs=1e-5)


def test_transfer_to_the_same_tokenizer_is_the_identity(tmp_path: Path) -> None:
    save_model(tmp_path / "source", toy_tokenizer("bpe"), rows=448)
    spec = check_student("transfer", {"from": str(tmp_path / "source"), "tokenizer": str(tmp_path / "source")})
    student = checkpoints.load(make_student(spec, tmp_path / "student"))
    source = checkpoints.load(tmp_path / "source")
    assert student.tokenbytes.fingerprint == source.tokenbytes.fingerprint
    state = student.model.state_dict()
    assert all(torch.equal(state[key], value) for key, value in source.model.state_dict().items())


@pytest.mark.parametrize(("specials", "bos"), [("keep", True), ("replace", True)])
def test_the_student_keeps_its_specials_and_its_bos(tmp_path: Path, specials: str, bos: bool) -> None:
    save_model(tmp_path / "source", toy_tokenizer("bos"))
    options = {"from": str(tmp_path / "source"), "tokenizer": "bytes", "specials": specials}
    student = checkpoints.load(make_student(check_student("transfer", options), tmp_path / "student"))
    source = checkpoints.load(tmp_path / "source")
    rows = {side: side.model.get_input_embeddings().weight for side in (source, student)}
    for role in ("bos", "eos", "pad"):
        mine, theirs = getattr(student.roles, role), getattr(source.roles, role)
        assert torch.equal(rows[student][mine], rows[source][theirs])
        assert getattr(student.model.config, f"{role}_token_id") == mine
    assert (student.bos_id is not None) == (bos and specials == "keep")
    assert student.stop_ids == {student.roles.eos}


# Learning.


def taught_model(folder: Path, texts: Texts) -> Path:
    """Save a tiny model that has learnt ``texts``."""
    tokenizer = toy_tokenizer("bpe")
    save_model(folder, tokenizer)
    source = checkpoints.load(folder)
    encoder = Encoder(source.tokenbytes, source.bos_id)
    windows = Windows(texts, encoder, encoder, size=256, seed=0)
    model = Model(source.model, Reader.of(source.tokenbytes, source.valid_rows))
    work = folder / "work"
    work.mkdir()
    train(model, model, windows, [SFT()], TrainingSpec(steps=150, batch=8, lr=1e-2), folder=work, device="cpu")
    source.model.save_pretrained(folder)
    return folder


def figures(teacher: Checkpoint, student: Checkpoint, texts: Texts) -> tuple[float, float]:
    """Return bits per byte of the student and its mean chunk KL to the teacher."""
    batch, taught, read = read_batch(teacher, student, texts)
    bits, covered = SFT()(batch, read, taught).metrics["bits_per_byte"]
    term = ALM(tau=1, gamma=0, debias=False)(batch, read, taught)
    return bits / covered, float(term.sum) / term.count


@pytest.mark.parametrize("loss", ["sft", {"name": "alm", "tau": 5}])
def test_training_lowers_held_out_bits_per_byte_and_chunk_kl_against_initialisation_only(
    tmp_path: Path, corpus: str, loss: Any
) -> None:
    taught_model(tmp_path / "source", load_texts(corpus, "train"))
    held_out = load_texts(corpus, "heldout")
    common = {"from": str(tmp_path / "source"), "tokenizer": f"train:bpe:{corpus}:300", "corpus": corpus}
    initialised = make_student(check_student("transfer", common), tmp_path / "initialised")
    options = {"loss": [loss], "steps": 60, "batch": 8, "lr": 5e-3, "window_bytes": 256}
    trained = make_student(check_student("transfer", {**common, **options}), tmp_path / "trained")
    teacher = checkpoints.load(tmp_path / "source")
    before, after = (figures(teacher, checkpoints.load(folder), held_out) for folder in (initialised, trained))
    assert after[0] < 0.8 * before[0]
    assert after[1] < 0.8 * before[1]


# What is written.


def options_for(tmp_path: Path, corpus: str) -> dict[str, Any]:
    return {
        "from": str(tmp_path / "source"),
        "tokenizer": "bytes",
        "loss": ["sft", {"name": "alm", "tau": 5, "weight": 2}],
        "steps": 10,
        "batch": 4,
        "window_bytes": 128,
        "save_every": 3,
        "lr": 1e-3,
        "corpus": corpus,
    }


def test_the_folder_is_a_plain_model_with_provenance_log_and_picture(tmp_path: Path, corpus: str) -> None:
    save_model(tmp_path / "source", toy_tokenizer("bos"), shape="gemma3")
    folder = make_student(check_student("transfer", options_for(tmp_path, corpus)), tmp_path / "student")
    names = {path.name for path in folder.iterdir()}
    assert names >= {"config.json", "model.safetensors", "tokenizer.json", "provenance.json", LOG, "training.svg"}
    assert {path.name for path in tmp_path.iterdir()} == {"source", "student", "corpus.jsonl"}
    record = json.loads((folder / "provenance.json").read_text("utf-8"))
    student = checkpoints.load(folder)
    assert sum(record["initialiser"]["rows"].values()) == student.tokenbytes.size == record["valid_rows"]
    assert record["losses"][1] | {"tau": 5.0, "gamma": 0.1, "weight": 2.0} == record["losses"][1]
    assert record["data"][0]["sha256"] == load_texts(corpus, "train").source["sha256"]
    assert record["training"]["steps"] == 10
    assert record["source_fingerprint"] == checkpoints.identify(tmp_path / "source")
    assert math.isclose(record["metrics"]["last_step"]["sft"], read_log(folder / LOG)[-1]["loss"]["sft"])
    assert str(tmp_path) not in json.dumps({**record, "data": [], "tokenizer_source": ""})


def test_asked_again_it_does_nothing_and_another_recipe_is_refused(tmp_path: Path, corpus: str) -> None:
    save_model(tmp_path / "source", toy_tokenizer("bos"))
    options = options_for(tmp_path, corpus)
    folder = make_student(check_student("transfer", options), tmp_path / "student")
    before = (folder / "model.safetensors").stat().st_mtime_ns
    steps: list[float] = []
    make_student(
        check_student("transfer", options), tmp_path / "student", progress=lambda amount, _: steps.append(amount)
    )
    assert (folder / "model.safetensors").stat().st_mtime_ns == before
    assert not steps
    with pytest.raises(UserError, match="other models, options or texts"):
        make_student(check_student("transfer", {**options, "seed": 1}), tmp_path / "student")


def _transfer_and_die(options: dict[str, Any], out: Path, at_step: int) -> None:
    torch.set_num_threads(1)
    done = 0.0

    def progress(amount: float, _: str) -> None:
        nonlocal done
        done += amount
        if done >= at_step:
            os.kill(os.getpid(), signal.SIGKILL)

    make_student(check_student("transfer", options), out, device="cpu", progress=progress)


def test_kill_minus_nine_and_start_again_gives_the_weights_of_an_undisturbed_run(tmp_path: Path, corpus: str) -> None:
    torch.set_num_threads(1)
    save_model(tmp_path / "source", toy_tokenizer("bos"))
    options = options_for(tmp_path, corpus)
    whole = make_student(check_student("transfer", options), tmp_path / "whole", device="cpu")
    context = multiprocessing.get_context("spawn")
    for at_step in (2, 8):
        victim = context.Process(target=_transfer_and_die, args=(options, tmp_path / "cut", at_step))
        victim.start()
        victim.join(timeout=120)
        assert victim.exitcode == -signal.SIGKILL
        assert not (tmp_path / "cut").exists()
    seen: list[tuple[float, str]] = []
    cut = make_student(
        check_student("transfer", options), tmp_path / "cut", device="cpu", progress=lambda *told: seen.append(told)
    )
    assert seen[0] == (6, "resumed at step 6")
    assert (cut / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert [line["step"] for line in read_log(cut / LOG)] == list(range(1, 11))


def test_an_unfinished_student_of_another_recipe_is_not_continued(tmp_path: Path, corpus: str) -> None:
    save_model(tmp_path / "source", toy_tokenizer("bos"))
    options = options_for(tmp_path, corpus)

    def stop(amount: float, _: str) -> None:
        if list(tmp_path.glob(".student.work/state-*")):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_student(check_student("transfer", options), tmp_path / "student", progress=stop)
    seen: list[float] = []
    make_student(
        check_student("transfer", {**options, "seed": 5}),
        tmp_path / "student",
        progress=lambda amount, _: seen.append(amount),
    )
    assert seen == [1] * 10


# Bad input.


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stepz": 3}, "stepz.*steps"),
        ({"lr": -1}, "lr: input should be greater than 0"),
        ({"loss": ["smt"]}, "sft"),
        ({"loss": [{"name": "alm", "temperature": 5}]}, "temperature"),
        ({"init": "ftv"}, "fvt"),
        ({"loss": [], "steps": 5}, "loss is empty"),
        ({"loss": ["sft", "sft"]}, "sft twice"),
        ({"from": None}, "from"),
    ],
)
def test_a_specification_that_does_not_add_up_is_refused_in_one_line(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        check_student("transfer", {"from": "somewhere", "tokenizer": "bytes", **change}, "model 'x'")
    assert "\n" not in str(refused.value)


def test_without_a_loss_nothing_is_trained_and_with_one_it_is() -> None:
    common = {"from": "somewhere", "tokenizer": "bytes"}
    assert check_student("transfer", common).steps == 0
    assert check_student("transfer", {**common, "loss": ["alm"]}).steps > 0
    assert check_student("transfer", {**common, "loss": ["alm"], "steps": 0}).steps == 0
    assert isinstance(check_student("transfer", common), TransferSpec)


def test_an_ensemble_is_refused(tmp_path: Path) -> None:
    members = [str(save_model(tmp_path / name, toy_tokenizer("bpe"), seed=seed)) for seed, name in enumerate("ab")]
    save_ensemble(tmp_path / "pair", members, combine="mean_prob")
    with pytest.raises(UserError, match="is an ensemble"):
        make_student(
            check_student("transfer", {"from": str(tmp_path / "pair"), "tokenizer": "bytes"}), tmp_path / "out"
        )


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    save_model(tmp_path / "source", toy_tokenizer("bpe"))
    (tmp_path / "file").write_text("x", "utf-8")
    with pytest.raises(UserError, match="cannot be written"):
        make_student(
            check_student("transfer", {"from": str(tmp_path / "source"), "tokenizer": "bytes"}),
            tmp_path / "file" / "out",
        )
