"""The report on batch invariance: silent where nothing differs, exact about where something does."""

from pathlib import Path
from typing import Any

import pytest
import torch
from engine_models import toy_checkpoint
from toy_tokenizers import TEXT

from crosstok.harness.cli.app import main
from crosstok.harness.jobs.batch_check import check_batch
from crosstok.tasks.task import Generate, Sampling

REQUESTS = [Generate(TEXT[at : at + 20 + at], max_bytes=60) for at in (0, 30, 60, 90)]


@pytest.mark.parametrize("shape", ["llama", "gpt2", "gemma3"])
def test_answers_in_fp32_are_equal_at_every_batch_size(shape: str) -> None:
    report = check_batch(toy_checkpoint("bpe", shape), REQUESTS, 4)
    assert (report.equal, report.answers, report.differences, report.dtype) == (4, 4, (), "float32")
    assert str(report) == "4 of 4 answers are equal at batch 1 and batch 4 (float32)."


class Leaky(torch.nn.Module):
    """Passes of several rows prefer another token where the two best are all but tied."""

    def __init__(self, inner: Any, at: int, swap: tuple[int, int], gap: float) -> None:
        super().__init__()
        self.inner, self.config, self.device, self.dtype = inner, inner.config, inner.device, inner.dtype
        self.at, self.swap, self.gap = at, swap, gap

    def forward(self, input_ids: torch.Tensor, use_cache: bool = True, **named: Any) -> Any:
        output = self.inner(input_ids=input_ids, use_cache=use_cache, **named)
        cache = named.get("past_key_values")
        length = input_ids.shape[1] if cache is None else named["attention_mask"].shape[1]
        if length == self.at:
            best = output.logits[:, -1].amax(-1) + 1
            first, second = self.swap if len(input_ids) == 1 else self.swap[::-1]
            output.logits[:, -1, first] = best + self.gap
            output.logits[:, -1, second] = best
        return output


def test_a_row_that_turns_in_company_is_reported_with_byte_token_and_gap() -> None:
    checkpoint = toy_checkpoint("byte")
    ids = tuple(checkpoint.tokenbytes.id_of(letter) for letter in (b"a", b"b"))
    checkpoint.model = Leaky(checkpoint.model, 12, (int(ids[0] or 0), int(ids[1] or 0)), 0.125)
    requests = [Generate("def a(x):", max_bytes=20), Generate("def b(x):", max_bytes=20)]
    report = check_batch(checkpoint, requests, 2)
    assert (report.equal, report.answers, len(report.differences)) == (0, 2, 2)
    assert [(each.index, each.byte, each.token) for each in report.differences] == [(0, 3, 3), (1, 3, 3)]
    assert report.differences[0].gap == pytest.approx(0.125, abs=1e-4)
    assert "Answer 1 differs from byte 3 on (token 3, top-2 gap 0.125)." in str(report)


def test_refused_prompts_are_not_counted_and_sampled_requests_are_asked_greedily() -> None:
    checkpoint = toy_checkpoint("spm")
    request = Generate("fine", max_bytes=10, sampling=Sampling(1.0), seeds=(1, 2, 3))
    report = check_batch(checkpoint, [Generate("a ▁ b"), request], 2)
    assert (report.equal, report.answers) == (1, 1)


# --- the command ---


def command(monkeypatch: pytest.MonkeyPatch, folder: Path, *words: str) -> int:
    monkeypatch.chdir(folder)
    monkeypatch.setattr("sys.argv", ["crosstok", "eval", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_eval_with_check_batch_reports_and_stores_nothing(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = ["-t", "humaneval:limit=3,max_bytes=30", "--check-batch", "3"]
    assert command(monkeypatch, tmp_path, str(tiny_folder), *chosen) == 0
    said = capsys.readouterr().out
    assert said == f"{tiny_folder.name} on humaneval: 3 of 3 answers are equal at batch 1 and batch 3 (float32).\n"
    assert command(monkeypatch, tmp_path, str(tiny_folder), *chosen, "--dtype", "bfloat16") == 0
    assert "of 3 answers are equal at batch 1 and batch 3 (bfloat16)." in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_what_has_no_batches_to_compare_is_one_clear_line(
    tiny_folder: Path,
    texts_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for words, said in (
        (["-t", "humaneval:limit=1", "--check-batch", "1"], "must be at least 2"),
        (["-t", f"text_bpb:source=jsonl:{texts_file}", "--check-batch", "4"], "does not generate answers"),
    ):
        assert command(monkeypatch, tmp_path, str(tiny_folder), *words) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1
        assert said in lines[0]
