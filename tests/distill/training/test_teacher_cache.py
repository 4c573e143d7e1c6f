"""The teacher cache: eight bytes a token, read by every later run, equal to the bit, good to its last window."""

import copy
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_training import STUDENT, TEACHER, losses, model, windows

from crosstok.distill.losses import AlignedBatch, Outputs
from crosstok.distill.training import teacher_cache
from crosstok.distill.training.log import read_log
from crosstok.distill.training.loop import LOG, Model, TrainingSpec, train
from crosstok.distill.training.teacher_cache import SCORES, TOP, Shards, WindowTeacher

KEY, OTHER = b"k" * 15 + b"\0", b"o" * 16


def words(*values: float) -> np.ndarray[Any, np.dtype[np.uint32]]:
    return np.array(values, dtype=np.float32).reshape(-1, 2).view(np.uint32)


def test_arrays_come_back_after_reopening_and_shards_only_grow(tmp_path: Path) -> None:
    first = Shards(tmp_path, 2)
    first.put(KEY, words(1, 2, 3, 4))
    assert first.get(KEY) is not None
    first.close()
    second = Shards(tmp_path, 2)
    second.put(OTHER, words(5, 6))
    again = Shards(tmp_path, 2)  # while the second is still open
    for shards in (second, again):
        assert np.array_equal(shards.get(KEY), words(1, 2, 3, 4))
        assert np.array_equal(shards.get(OTHER), words(5, 6))
        assert shards.get(b"x" * 16) is None
    assert sorted(path.name for path in tmp_path.glob("*.values")) == ["00000.values", "00001.values"]


def test_a_full_shard_is_followed_by_another_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher_cache, "_SHARD_BYTES", 16)
    shards = Shards(tmp_path, 2)
    for number in range(5):
        shards.put(bytes([number] * 16), words(number, -number))
    assert len(list(tmp_path.glob("*.values"))) == 3
    reopened = Shards(tmp_path, 2)
    assert all(np.array_equal(reopened.get(bytes([n] * 16)), words(n, -n)) for n in range(5))


@pytest.mark.parametrize("kind", ["values", "records"])
def test_what_a_kill_cut_short_is_not_read(tmp_path: Path, kind: str) -> None:
    shards = Shards(tmp_path, 2)
    shards.put(KEY, words(1, 2))
    shards.put(OTHER, words(3, 4, 5, 6))
    shards.close()
    path = tmp_path / f"00000.{kind}"
    path.write_bytes(path.read_bytes()[:-3])
    reopened = Shards(tmp_path, 2)
    assert np.array_equal(reopened.get(KEY), words(1, 2))
    assert reopened.get(OTHER) is None


def test_a_damaged_entry_is_logged_and_missing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shards = Shards(tmp_path, 2)
    shards.put(KEY, words(1, 2))
    shards.close()
    (tmp_path / "00000.values").write_bytes(words(1, 3).tobytes())
    assert Shards(tmp_path, 2).get(KEY) is None
    assert "corrupt entry" in caplog.text


def test_a_disk_that_is_full_stops_the_keeping_and_not_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = Shards(tmp_path, 2)
    shards.put(KEY, words(1, 2))

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shards, "_append", full)
    for _ in range(3):
        shards.put(OTHER, words(3, 4))
    assert caplog.text.count("No space left on device") == 1
    assert shards.get(KEY) is not None
    assert shards.get(OTHER) is None


def reading(folder: Path | None, *, top: int = 0) -> tuple[WindowTeacher, Model]:
    teacher = model(TEACHER, 0)
    needs = SCORES | TOP if top else SCORES
    reader = teacher.reader.with_top(top)
    return WindowTeacher(teacher.network, reader, needs, precision=nullcontext, folder=folder), teacher


def equal(left: Outputs, right: Outputs) -> bool:
    return left.readings.keys() == right.readings.keys() and all(
        torch.equal(value, right.readings[name]) for name, value in left.readings.items()
    )


def batches() -> list[AlignedBatch]:
    source = windows()
    return [source.batch(source.at_step(step, 4)) for step in range(3)]


def test_what_is_read_back_is_what_was_computed_to_the_bit(tmp_path: Path) -> None:
    made = batches()
    without, _ = reading(None, top=5)
    writing, _ = reading(tmp_path, top=5)
    expected = [without.read(batch.teacher) for batch in made]
    assert all(equal(writing.read(batch.teacher), want) for batch, want in zip(made, expected, strict=True))
    later, teacher = reading(tmp_path, top=5)
    teacher.network.forward = later.network.forward = None  # type: ignore[assignment]  # it must not run
    assert all(equal(later.read(batch.teacher), want) for batch, want in zip(made, expected, strict=True))
    assert (later.read_windows, later.found_windows) == (0, 12)


def test_a_window_has_the_same_values_whichever_batch_it_is_in() -> None:
    source = windows()
    together = source.batch(source.windows)
    teacher, _ = reading(None)
    whole = teacher.read(together.teacher)
    for row, window in enumerate(source.windows):
        alone = teacher.read(source.batch([window]).teacher)
        n = alone.gold.shape[1]
        assert torch.equal(alone.gold[0], whole.gold[row, :n])
        assert torch.equal(alone.boundary[0], whole.boundary[row, :n])


def test_scores_read_by_the_window_are_those_of_the_padded_batch() -> None:
    batch = batches()[0].teacher
    window_teacher, teacher = reading(None)
    with torch.no_grad():
        padded = teacher.reader.read(teacher.network, batch, SCORES)
    found = window_teacher.read(batch)
    real = batch.attention.bool()
    assert torch.allclose(found.gold[real], padded.gold[real], atol=1e-5)
    assert torch.allclose(found.boundary[real], padded.boundary[real], atol=1e-5)


def test_a_token_takes_eight_bytes(tmp_path: Path) -> None:
    teacher, _ = reading(tmp_path)
    tokens = 0
    for batch in batches():
        teacher.read(batch.teacher)
        tokens += int(batch.teacher.attention.sum())
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.values")) == 8 * tokens


def go(folder: Path, choice: Any, *, cached: bool, seed: int = 0, **options: Any) -> Any:
    folder.mkdir()
    student, teacher = model(STUDENT, 1), model(TEACHER, 0)
    teacher = Model(teacher.network, teacher.reader, "weights of the teacher")
    source = windows()
    source.seed = seed
    spec = TrainingSpec(steps=3, batch=3, lr=1e-3, warmup=0, teacher_cache=cached, seed=seed, **options)
    train(student, teacher, source, losses(choice), spec, folder=folder, device="cpu")
    return student.network


@pytest.mark.parametrize("pack", [False, True])
def test_training_is_equal_to_the_bit_without_with_an_empty_and_with_a_full_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pack: bool
) -> None:
    monkeypatch.setenv("CROSSTOK_CACHE", str(tmp_path / "cache"))
    found = [
        go(tmp_path / name, {"name": "alm", "tau": 5}, cached=name != "without", micro_batch=micro_batch, pack=pack)
        for name, micro_batch in (("without", 3), ("empty", 3), ("full", 3))
    ]
    for other in found[1:]:
        for key, value in found[0].state_dict().items():
            assert torch.equal(value, other.state_dict()[key])
    lines = {name: read_log(tmp_path / name / LOG) for name in ("without", "empty", "full")}
    assert [line["cached_windows"] for line in lines["without"]] == [0, 0, 0]
    assert [line["cached_windows"] for line in lines["full"]] == [3, 3, 3]


def test_another_method_and_another_seed_read_the_same_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSTOK_CACHE", str(tmp_path / "cache"))
    source = windows()
    steps = -(-len(source) // 3)
    student, plain = model(STUDENT, 1), model(TEACHER, 0)
    teacher = Model(plain.network, plain.reader, "weights of the teacher")
    spec = TrainingSpec(steps=steps, batch=3, teacher_cache=True)
    (tmp_path / "first").mkdir()
    train(student, teacher, source, losses("alm"), spec, folder=tmp_path / "first", device="cpu")
    for number, choice in enumerate([{"name": "alm", "tau": "inf", "gamma": 0, "debias": False}, "alm"]):
        go(tmp_path / f"run-{number}", choice, cached=True, seed=number)
        lines = read_log(tmp_path / f"run-{number}" / LOG)
        assert [line["cached_windows"] for line in lines] == [3, 3, 3]


def test_another_teacher_or_precision_has_a_folder_of_its_own() -> None:
    about = ("weights", "tokenizer", 100, "float32", "cpu")
    changed = [("other", *about[1:]), (*about[:3], "bfloat16", "cpu"), (*about[:2], 101, *about[3:])]
    assert len({teacher_cache.cache_name(*each) for each in (about, *changed)}) == 4


def test_a_loss_that_asks_for_more_than_is_kept_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CROSSTOK_CACHE", str(tmp_path / "cache"))
    go(tmp_path / "run", "strict", cached=True)
    assert "teacher_cache is ignored" in caplog.text
    assert not (tmp_path / "cache").exists()


def test_the_teacher_that_is_cached_is_not_changed_by_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSTOK_CACHE", str(tmp_path / "cache"))
    teacher = model(TEACHER, 0)
    before = copy.deepcopy(teacher.network.state_dict())
    spec = TrainingSpec(steps=1, batch=2, teacher_cache=True)
    cached = Model(teacher.network, teacher.reader, "weights")
    train(model(STUDENT, 1), cached, windows(), losses("alm"), spec, folder=tmp_path, device="cpu")
    assert all(torch.equal(value, before[key]) for key, value in teacher.network.state_dict().items())
