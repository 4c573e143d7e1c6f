"""Distillation from another model, end to end on tiny models: it learns, keeps its tokenizer and says who taught it."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_tokenizers import TEXT, toy_tokenizer

from crosstok.corpora import load_texts
from crosstok.distill.ensemble import save_ensemble
from crosstok.distill.losses import Reader
from crosstok.distill.losses.sft import SFT
from crosstok.distill.models import checkpoints
from crosstok.distill.recipes.options import DistilSpec
from crosstok.distill.recipes.student import check_student, make_student
from crosstok.distill.training.loop import Model, TrainingSpec, train
from crosstok.distill.training.windows import Encoder, Windows
from crosstok.errors import UserError


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a text source of many small documents, some of which are held out."""
    lines = TEXT.splitlines(keepends=True)
    texts = ["".join(lines[first : first + 6]) for first in range(0, len(lines), 2)]
    path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    path.write_text("".join(json.dumps({"id": f"d{i}", "text": text}) + "\n" for i, text in enumerate(texts)), "utf-8")
    return f"jsonl:{path}"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, save_tiny: Any, corpus: str) -> Path:
    """Return a folder with a larger model that knows the corpus, and a small one that does not."""
    root = tmp_path_factory.mktemp("models")
    save_tiny(root / "student", "spm", width=32, seed=1)
    save_tiny(root / "teacher", "bos", width=48, seed=2)
    save_tiny(root / "bystander", "bos", width=48, seed=3)
    (root / "work").mkdir()
    teacher = checkpoints.load(root / "teacher")
    encoder = Encoder(teacher.tokenbytes, teacher.bos_id)
    windows = Windows(load_texts(corpus, "train"), encoder, encoder, size=256, seed=0)
    model = Model(teacher.model, Reader.of(teacher.tokenbytes, teacher.valid_rows))
    spec = TrainingSpec(steps=80, batch=8, lr=1e-2)
    train(model, model, windows, [SFT()], spec, folder=root / "work", device="cpu")
    teacher.model.save_pretrained(root / "teacher")
    return root


def options_for(folders: Path, corpus: str, **change: Any) -> dict[str, Any]:
    common = {"from": str(folders / "student"), "teacher": str(folders / "teacher"), "corpus": corpus}
    return {**common, "steps": 60, "batch": 8, "lr": 5e-3, "window_bytes": 256, **change}


def test_a_student_learns_from_a_larger_model_and_keeps_its_own_tokenizer(
    folders: Path, corpus: str, tmp_path: Path
) -> None:
    out = make_student(
        check_student("distil", options_for(folders, corpus, loss=[{"name": "alm", "tau": 1}])), tmp_path / "out"
    )
    record = json.loads((out / "provenance.json").read_text("utf-8"))
    before, after = record["metrics"]["before"], record["metrics"]["after"]
    assert after["chunk_kl"] < 0.9 * before["chunk_kl"]
    assert after["bits_per_byte"] < 0.95 * before["bits_per_byte"]
    source, student, teacher = (checkpoints.load(folder) for folder in (folders / "student", out, folders / "teacher"))
    assert student.tokenbytes.fingerprint == source.tokenbytes.fingerprint == record["target_tokenizer"]
    assert record["teacher"] == {
        "source": "teacher",
        "fingerprint": teacher.fingerprint,
        "tokenizer": teacher.tokenbytes.fingerprint,
        "licence": "",
    }
    assert not torch.equal(student.model.get_input_embeddings().weight, source.model.get_input_embeddings().weight)


@pytest.mark.parametrize("loss", ["alm", "uld", "gold", "dskd", "mined", "bpm", "strict", "hidden"])
def test_every_loss_across_tokenizers_trains_a_student_of_another_model(
    folders: Path, corpus: str, tmp_path: Path, loss: str
) -> None:
    options = options_for(folders, corpus, loss=[loss], steps=1, batch=2)
    out = make_student(check_student("distil", options), tmp_path / "out", device="cpu")
    assert json.loads((out / "training.jsonl").read_text("utf-8"))["loss"].keys() == {loss}


def test_distillation_of_whole_distributions_needs_one_vocabulary(folders: Path, corpus: str, tmp_path: Path) -> None:
    options = options_for(folders, corpus, loss=["kd"], steps=1, batch=2)
    with pytest.raises(UserError, match="vocabular"):
        make_student(check_student("distil", options), tmp_path / "out")
    options["from"] = str(folders / "bystander")
    assert make_student(check_student("distil", options), tmp_path / "out")


def test_an_ensemble_may_teach_but_not_learn(folders: Path, corpus: str, tmp_path: Path) -> None:
    pair = save_ensemble(tmp_path / "pair", [folders / "teacher", folders / "bystander"])
    options = options_for(folders, corpus, teacher=str(pair), steps=2, batch=2)
    assert make_student(check_student("distil", options), tmp_path / "out", device="cpu")
    options |= {"from": str(pair), "teacher": str(folders / "teacher")}
    with pytest.raises(UserError, match="is an ensemble"):
        make_student(check_student("distil", options), tmp_path / "other")


def test_another_teacher_makes_another_student(folders: Path, corpus: str, tmp_path: Path) -> None:
    options = options_for(folders, corpus, steps=1, batch=2)
    make_student(check_student("distil", options), tmp_path / "out", device="cpu")
    options["teacher"] = str(folders / "bystander")
    with pytest.raises(UserError, match="other models, options or texts"):
        make_student(check_student("distil", options), tmp_path / "out", device="cpu")


def test_a_teacher_that_rewrites_text_is_refused_with_counts_and_an_example(
    folders: Path, tmp_path: Path, save_tiny: Any
) -> None:
    rewriting = toy_tokenizer("bpe")
    settings = json.loads(rewriting.backend_tokenizer.to_str())
    folder = save_tiny(tmp_path / "nfkc", "bpe")
    settings["normalizer"] = {"type": "NFKC"}
    (folder / "tokenizer.json").write_text(json.dumps(settings), "utf-8")
    path = tmp_path / "ligatures.txt"
    path.write_text("\N{LATIN SMALL LIGATURE FI}ne words, ﬁve of them\n" * 40, "utf-8")
    options = options_for(folders, f"jsonl:{tmp_path / 'c.jsonl'}", teacher=str(folder), steps=1)
    rows = [json.dumps({"id": str(i), "text": path.read_text("utf-8")}) for i in range(20)]
    (tmp_path / "c.jsonl").write_text("\n".join(rows), "utf-8")
    with pytest.raises(UserError, match=r"\d+ of \d+ windows .*for example .*\(teacher\)"):
        make_student(check_student("distil", options), tmp_path / "out")


def test_a_student_that_is_not_taught_is_refused() -> None:
    with pytest.raises(UserError, match="steps is 0"):
        check_student("distil", {"from": "a", "teacher": "b", "steps": 0})
    with pytest.raises(UserError, match="teacher: field required"):
        check_student("distil", {"from": "a"})
    assert isinstance(check_student("distil", {"from": "a", "teacher": "b"}), DistilSpec)


def test_training_rows_of_a_benchmark_are_a_corpus_and_its_test_rows_are_not(tmp_path: Path) -> None:
    folder = tmp_path / "hub" / "lab" / "sums" / "main"
    folder.mkdir(parents=True)
    rows = [{"question": f"{i} + 1?", "answer": f"{i + 1}"} for i in range(40)]
    with gzip.open(folder / "train.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "test.jsonl").write_text(json.dumps({"question": "secret?", "answer": "yes"}), "utf-8")
    parts = [load_texts("benchmark:lab/sums/main", split, tmp_path).documents for split in ("train", "heldout")]  # type: ignore[arg-type]  # both are splits
    texts = [{document.text for document in part} for part in parts]
    assert texts[0] | texts[1] == {f"{i} + 1?\n{i + 1}" for i in range(40)}
    assert not texts[0] & texts[1]
    assert texts[1]
    with pytest.raises(UserError, match="no training rows hub/lab/other"):
        load_texts("benchmark:lab/other", "train", tmp_path)
    with pytest.raises(UserError, match="no text field 'solution'"):
        load_texts("benchmark:lab/sums/main#solution", "train", tmp_path)
