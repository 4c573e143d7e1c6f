"""Byte models with n-gram inputs: the right row is added, and no cache, padding or folder changes anything."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import tiny_model
from toy_tokenizers import TEXT, toy_tokenizer
from transformers import AutoModelForCausalLM

from crosstok.distill.models import checkpoints
from crosstok.distill.models.byte_ngrams import LONGEST, ByteNgramForCausalLM, NgramTable, with_ngrams
from crosstok.distill.models.weights import input_weight, is_tied
from crosstok.distill.recipes.student import check_student, make_student
from crosstok.distill.tokenizers.tokenbytes import TokenBytes
from crosstok.errors import UserError

OLD, NEW = (TokenBytes.from_tokenizer(toy_tokenizer(name)) for name in ("bpe", "byte"))
IDS = torch.tensor([NEW.encode(TEXT[:60]).ids.tolist()])
BOS = next(token for token, name in NEW.specials.items() if name == "<bos>")


def table(width: int = 4) -> NgramTable:
    return NgramTable.of(OLD, torch.randn(OLD.size, width, generator=torch.Generator().manual_seed(0)), NEW, NEW.size)


def by_search(data: bytes) -> bytes:
    """Return the longest token of at most 16 bytes that ends ``data``, found by trying all of them."""
    known = {token for token in OLD.table if token}
    return next(data[first:] for first in range(max(0, len(data) - LONGEST), len(data) + 1) if data[first:] in known)


def model(shape: Any = "llama", *, tied: bool = True) -> ByteNgramForCausalLM:
    inner = tiny_model(toy_tokenizer("byte"), shape, tied=tied)
    matrix = 0.5 * torch.randn(OLD.size, 32, generator=torch.Generator().manual_seed(0))
    return with_ngrams(inner, NgramTable.of(OLD, matrix, NEW, NEW.size))


def test_each_byte_is_given_the_longest_token_that_ends_there() -> None:
    found = table()
    places = found.longest(IDS, IDS.shape[1], unseen=None, reach=None)[0].tolist()
    rows = torch.randn(OLD.size, 4, generator=torch.Generator().manual_seed(0))
    data = TEXT[:60].encode()
    for index, place in enumerate(places):
        token = by_search(data[: index + 1])
        assert int(found.lengths[place]) == len(token)
        assert torch.equal(found.rows[place], rows[OLD.id_of(token)])
    assert len({len(by_search(data[: index + 1])) for index in range(len(data))}) > 3  # lengths differ in this text


def test_no_token_reaches_across_a_special_one_padding_or_another_window() -> None:
    found = table()
    word = next(token for token in OLD.table if token and len(token) == 3 and token.isalpha())
    ids = NEW.encode(word.decode()).ids.tolist()

    def length(ids: list[int], **options: Any) -> int:
        masks = {"unseen": None, "reach": None} | options
        place = int(found.longest(torch.tensor([ids]), 1, **masks)[0, 0])
        return 0 if place < 0 else int(found.lengths[place])

    assert length(ids) == 3
    assert length([ids[0], BOS, *ids[1:]]) < 3
    assert length([BOS]) == 0
    assert length(ids, unseen=torch.tensor([[True, False, False]])) < 3
    assert length(ids, reach=torch.tensor([[2]])) < 3


def test_the_input_is_the_row_of_the_byte_plus_that_of_the_token_under_one_scale() -> None:
    wrapped = model("gemma3")
    places = wrapped.ngrams.longest(IDS, IDS.shape[1], unseen=None, reach=None)
    rows = input_weight(wrapped)[IDS] + wrapped.ngrams.rows[places]
    with torch.no_grad():
        logits = wrapped.inner(inputs_embeds=rows * 32**0.5).logits
        assert torch.allclose(wrapped(input_ids=IDS).logits, logits, atol=1e-5)
        assert not torch.allclose(wrapped.inner(input_ids=IDS).logits, logits, atol=1e-2)


@pytest.mark.parametrize("shape", ["llama", "gpt2", "gemma3"])
@torch.no_grad()
def test_byte_by_byte_is_the_whole_text_at_once(shape: str) -> None:
    wrapped = model(shape)
    whole = wrapped(input_ids=IDS, use_cache=False).logits
    first = wrapped(input_ids=IDS[:, :7], use_cache=True)
    parts, cache = [first.logits], first.past_key_values
    for column in range(7, IDS.shape[1]):
        step = wrapped(input_ids=IDS[:, column : column + 1], past_key_values=cache)
        parts.append(step.logits)
    assert torch.allclose(torch.cat(parts, dim=1), whole, atol=2e-4)


@torch.no_grad()
def test_rows_of_a_cache_may_be_selected_and_left_padding_changes_nothing() -> None:
    wrapped = model()
    short, long = IDS[0, :9], IDS[0, 9:29]
    batch, mask = torch.full((2, 20), int(IDS[0, 0])), torch.ones(2, 20, dtype=torch.long)
    batch[0, 11:], batch[1], mask[0, :11] = short, long, 0
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    answer = wrapped(input_ids=batch, attention_mask=mask, position_ids=positions, use_cache=True)
    for row, ids in enumerate((short, long)):
        alone = wrapped(input_ids=ids[None]).logits[0]
        assert torch.allclose(answer.logits[row, -len(ids) :], alone, atol=2e-4)
    cache = answer.past_key_values
    cache.batch_select_indices(torch.tensor([1, 0]))
    following = IDS[0, 29:31][:, None]
    steps = wrapped(
        input_ids=following,
        attention_mask=torch.cat([mask[[1, 0]], torch.ones(2, 1, dtype=torch.long)], dim=1),
        position_ids=torch.tensor([[20], [9]]),
        past_key_values=cache,
    ).logits
    for row, ids in enumerate((long, short)):
        alone = wrapped(input_ids=torch.cat([ids, following[row]])[None]).logits[0, -1]
        assert torch.allclose(steps[row, -1], alone, atol=2e-4)


@torch.no_grad()
def test_generate_of_the_library_gives_what_a_loop_without_a_cache_gives() -> None:
    wrapped = model()
    wrapped.generation_config.eos_token_id = None
    ids = IDS[:, :12]
    answer = wrapped.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
    for _ in range(12):
        ids = torch.cat([ids, wrapped(input_ids=ids).logits[:, -1:].argmax(dim=-1)], dim=1)
    assert torch.equal(answer, ids)


def test_masks_that_hide_which_bytes_stand_before_one_are_refused() -> None:
    with pytest.raises(ValueError, match="attention mask of shape"):
        model()(input_ids=IDS, attention_mask=torch.zeros(1, 1, IDS.shape[1], IDS.shape[1]))


def test_tokens_of_several_bytes_are_refused() -> None:
    with pytest.raises(UserError, match="require a byte-level tokenizer"):
        NgramTable.of(OLD, torch.zeros(OLD.size, 4), OLD, OLD.size)


# Students.


def student_of(tmp_path: Path, save_tiny: Any, shape: str = "llama", *, tied: bool = True, **options: Any) -> Path:
    save_tiny(tmp_path / "source", "bos", shape, tied=tied)
    corpus = tmp_path / "corpus.jsonl"
    lines = TEXT.splitlines(keepends=True)
    rows = [{"id": str(i), "text": "".join(lines[i : i + 6])} for i in range(0, len(lines), 3)]
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    common = {"from": str(tmp_path / "source"), "tokenizer": "bytes", "ngrams": True, "corpus": f"jsonl:{corpus}"}
    return make_student(check_student("transfer", {**common, **options}), tmp_path / "student", device="cpu")


@pytest.mark.parametrize(("shape", "tied"), [("llama", True), ("gemma3", True), ("gpt2", False)])
@pytest.mark.parametrize("embeddings", ["keep", "untie", "tie"])
@torch.no_grad()
def test_a_student_is_a_folder_that_gives_the_same_logits_back(
    tmp_path: Path, save_tiny: Any, shape: str, tied: bool, embeddings: str
) -> None:
    folder = student_of(tmp_path, save_tiny, shape, tied=tied, embeddings=embeddings)
    first = checkpoints.load(folder)
    assert is_tied(first.model) == {"keep": tied, "untie": False, "tie": True}[embeddings]
    assert isinstance(first.model, ByteNgramForCausalLM)
    assert first.provenance["ngrams"] == len(first.model.ngrams.hashes) > 100
    checkpoints.save(first, tmp_path / "again", first.provenance)
    second = AutoModelForCausalLM.from_pretrained(tmp_path / "again")
    ids = torch.tensor([first.tokenbytes.encode(TEXT[:40]).ids.tolist()])
    assert torch.equal(second(input_ids=ids).logits, first.model(input_ids=ids).logits)
    source = checkpoints.load(tmp_path / "source")
    known = dict(zip(source.tokenbytes.table, input_weight(source.model), strict=True))
    place = int(first.model.ngrams.longest(ids[:, :5], 1, unseen=None, reach=None)[0, 0])
    assert torch.equal(first.model.ngrams.rows[place], known[by_search(TEXT[:5].encode())])


def test_training_changes_bytes_and_leaves_the_table(tmp_path: Path, save_tiny: Any) -> None:
    options = {"loss": ["alm", "sft", "hidden"], "steps": 6, "batch": 4, "window_bytes": 128, "lr": 5e-3, "warmup": 1}
    folder = student_of(tmp_path, save_tiny, embeddings="untie", balance="gradmag", **options)
    trained, source = checkpoints.load(folder), checkpoints.load(tmp_path / "source")
    assert isinstance(trained.model, ByteNgramForCausalLM)
    kept = {row.numpy().tobytes() for row in input_weight(source.model).detach()}
    assert all(row.numpy().tobytes() in kept for row in trained.model.ngrams.rows)
    figures = trained.provenance["metrics"]
    assert figures["after"]["bits_per_byte"] < figures["before"]["bits_per_byte"]


def test_a_model_that_reads_ngrams_is_not_moved_again(tmp_path: Path, save_tiny: Any) -> None:
    folder = student_of(tmp_path, save_tiny)
    with pytest.raises(UserError, match="reads n-grams of bytes"):
        make_student(check_student("transfer", {"from": str(folder), "tokenizer": "bytes"}), tmp_path / "next")


@torch.no_grad()
def test_untying_and_tying_hold_after_saving_without_ngrams_too(tmp_path: Path, save_tiny: Any) -> None:
    for tied, embeddings in ((True, "untie"), (False, "tie")):
        save_tiny(tmp_path / embeddings / "source", "bpe", tied=tied)
        options = {"from": str(tmp_path / embeddings / "source"), "tokenizer": "bytes", "embeddings": embeddings}
        student = checkpoints.load(make_student(check_student("transfer", options), tmp_path / embeddings / "out"))
        assert is_tied(student.model) is not tied
        assert student.model.config.tie_word_embeddings is not tied
        assert ("lm_head.weight" in student.model.state_dict()) is True
