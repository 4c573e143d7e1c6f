"""``expand``, end to end on tiny models: tokens are added, learn alone, and leave all else as it was."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_tokenizers import TEXT, toy_tokenizer

from crosstok.distill.expansion.selection import expand_tokenizer
from crosstok.distill.expansion.tokens_spec import TokensSpec
from crosstok.distill.expansion.uptake import uptake
from crosstok.distill.models import checkpoints
from crosstok.distill.models.checkpoints import Checkpoint
from crosstok.distill.recipes.student import check_student, make_student
from crosstok.distill.tokenizers.spellings import spellings
from crosstok.distill.tokenizers.tokenbytes import TokenBytes
from crosstok.errors import UserError

FREE_OF_NEW = "q z j x k\n"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    lines = TEXT.splitlines(keepends=True)
    texts = ["".join(lines[first : first + size]) for size in (5, 6, 8) for first in range(len(lines))]
    path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    path.write_text("".join(json.dumps({"id": f"d{i}", "text": text}) + "\n" for i, text in enumerate(texts)), "utf-8")
    return f"jsonl:{path}"


@pytest.fixture(autouse=True)
def _own_cache(empty_cache: Path) -> None:
    """Expanded tokenizers go into a cache of the test's own."""


def options(source: Path, corpus: str, **change: Any) -> dict[str, Any]:
    tokens = {"train_bpe": {"corpus": corpus, "size": 24}}
    common = {"from": str(source), "tokens": tokens, "corpus": corpus, "steps": 4, "batch": 4, "window_bytes": 128}
    return {**common, "lr": 1e-2, "warmup": 0, "weight_decay": 0.1, **change}


def expand(out: Path, source: Path, corpus: str, **change: Any) -> Path:
    return make_student(check_student("expand", options(source, corpus, **change)), out)


def logits(model: Checkpoint, text: str) -> torch.Tensor:
    with torch.no_grad():
        return model.model(torch.tensor([model.tokenbytes.encode(text).ids.tolist()])).logits[0]


@pytest.mark.parametrize("loss", ["kl", "sft"])
@pytest.mark.parametrize("options_of_model", [{}, {"tied": False}, {"shape": "gemma3"}, {"shape": "gpt2"}], ids=str)
def test_stage_1_moves_the_new_rows_and_not_one_bit_of_anything_else(
    options_of_model: dict[str, Any], loss: str, save_tiny: Any, corpus: str, tmp_path: Path
) -> None:
    source = save_tiny(tmp_path / "source", **options_of_model)
    untrained = checkpoints.load(expand(tmp_path / "start", source, corpus, steps=0, loss=[]))
    old, new = checkpoints.load(source), checkpoints.load(expand(tmp_path / "out", source, corpus, loss=[loss]))
    first = old.tokenbytes.size
    assert new.tokenbytes.size == first + 24
    before, start, after = (one.model.state_dict() for one in (old, untrained, new))
    assert before.keys() == after.keys()
    moved = 0
    for name, tensor in before.items():
        if tensor.shape == after[name].shape:
            assert torch.equal(tensor, after[name]), name
        else:
            assert torch.equal(tensor, after[name][:first]), name
            moved += not torch.equal(start[name][first:], after[name][first:])
    assert moved == 2  # input and output rows; tied ones are listed under both names


@pytest.mark.parametrize("tied", [True, False])
def test_text_without_new_tokens_scores_as_before_stage_2(
    tied: bool, save_tiny: Any, corpus: str, tmp_path: Path
) -> None:
    source = save_tiny(tmp_path / "source", tied=tied)
    old, new = checkpoints.load(source), checkpoints.load(expand(tmp_path / "out", source, corpus))
    first = old.tokenbytes.size
    assert new.tokenbytes.encode(FREE_OF_NEW).ids.tolist() == old.tokenbytes.encode(FREE_OF_NEW).ids.tolist()
    theirs, ours = logits(old, FREE_OF_NEW), logits(new, FREE_OF_NEW)
    assert torch.allclose(ours[:, :first].log_softmax(-1), theirs.log_softmax(-1), rtol=0, atol=1e-6)
    mass = ours.softmax(-1)[:, first:].sum(-1)  # of the new ids: all that scoring over all ids adds
    costs = theirs.log_softmax(-1) - ours.log_softmax(-1)[:, :first]
    assert torch.allclose(costs, -torch.log1p(-mass)[:, None].expand_as(costs), atol=1e-5)


@pytest.mark.parametrize(("train", "loss"), [("full", "kl"), ("lora", "kl"), ("full", "sft")])
def test_stage_2_goes_on_from_stage_1_with_the_original_as_teacher(
    train: str, loss: str, save_tiny: Any, corpus: str, tmp_path: Path
) -> None:
    source = save_tiny(tmp_path / "source")
    one = expand(tmp_path / "one", source, corpus)
    spec = {"from": str(one), "teacher": str(source), "loss": [loss], "train": train, "corpus": corpus, "lr": 1e-3}
    two = make_student(
        check_student("distil", {**spec, "steps": 3, "batch": 4, "window_bytes": 128, "lora_rank": 4}), tmp_path / "two"
    )
    before, after = checkpoints.load(one), checkpoints.load(two)
    assert after.tokenbytes.fingerprint == before.tokenbytes.fingerprint
    assert after.provenance["expansion"] == before.provenance["expansion"]
    layer = "model.layers.0.mlp.up_proj.weight"
    assert not torch.equal(before.model.state_dict()[layer], after.model.state_dict()[layer])


@pytest.mark.parametrize("init", ["zero", "normal", "mean", "hewitt", "fvt", "subword", "token_distillation"])
@pytest.mark.parametrize("loss", ["kl", "sft"])
def test_every_initialiser_goes_with_both_objectives(
    init: str, loss: str, save_tiny: Any, corpus: str, tmp_path: Path
) -> None:
    chosen: Any = {"name": init, "corpus": corpus, "steps": 2} if init == "token_distillation" else init
    source = save_tiny(tmp_path / "source", tied=False)
    out = expand(tmp_path / "out", source, corpus, init=chosen, loss=[loss], steps=1)
    record = json.loads((out / "provenance.json").read_text("utf-8"))
    assert record["initialiser"]["name"] == init
    assert sum(record["initialiser"]["rows"].values()) == record["expansion"]["count"] == 24
    assert record["metrics"]["after"]["bits_per_byte"] > 0


def test_the_record_says_what_was_added_what_it_gains_and_how_the_new_ids_are_taken_up(
    save_tiny: Any, corpus: str, tmp_path: Path
) -> None:
    out = expand(tmp_path / "out", save_tiny(tmp_path / "source"), corpus)
    record = json.loads((out / "provenance.json").read_text("utf-8"))
    expansion, metrics = record["expansion"], record["metrics"]
    assert expansion["tokens_per_byte_after"] < expansion["tokens_per_byte_before"]
    assert expansion["unreachable"] == 0
    assert "2508.15807" in expansion["method"]
    taken = metrics["new_tokens"]
    for name in ("p_new", "p_spelling", "token_share", "byte_share"):
        assert 0 < taken[name] < 1
    assert taken["distinct"] + taken["unused"] == 24
    assert taken["tokens_per_byte"] < taken["tokens_per_byte_spelt"]
    table = json.loads((out / "expansion.json").read_text("utf-8"))["table"]
    assert sum(row["tokens_saved"] for row in table) == expansion["tokens_saved"]


@pytest.mark.parametrize("name", ["bpe", "superword", "spm"])
@pytest.mark.parametrize("kind", ["train_bpe", "frequency", "list"])
def test_the_tokenizer_is_byte_exact_and_its_new_tokens_stand_for_old_ones(kind: str, name: str, corpus: str) -> None:
    toy = toy_tokenizer(name)
    old = TokenBytes.from_tokenizer(toy)
    wanted: Any = ["readthe", "valuestest"] if kind == "list" else {"corpus": corpus, "size": 12}
    grown = expand_tokenizer(toy, TokensSpec.model_validate({kind: wanted}))
    spelt = dict(enumerate(spellings(grown.tokens, old.size), old.size))
    for text in [TEXT, FREE_OF_NEW, "readthe valuestest", "naïve 🙂\r\n\tend "]:
        ids = grown.tokens.encode(text).ids.tolist()
        assert grown.tokens.decode(ids) == old.decode(old.encode(text).ids)  # SentencePiece puts a space in front
        assert [one for index in ids for one in spelt.get(index, (index,))] == old.encode(text).ids.tolist()
    for index, spelling in spelt.items():
        assert grown.tokens.table[index] == old.decode(spelling)
    assert grown.report["unreachable"] == 0


def test_words_are_ranked_by_what_they_save(tmp_path: Path) -> None:
    path = tmp_path / "words.jsonl"
    text = "qzxj " * 3 + "zzq " * 4 + "jq " * 5 + "kkkkqqqq "  # saved: 3 x more pieces, 4 x, 5 x 1; the last comes once
    rows = [{"id": str(number), "text": text} for number in range(1)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    toy = toy_tokenizer("bpe")
    spec = TokensSpec.model_validate({"frequency": {"corpus": f"jsonl:{path}", "size": 1}})
    found = expand_tokenizer(toy, spec)
    best = max(found.table, key=lambda row: len(row["text"]))
    old = TokenBytes.from_tokenizer(toy)
    saved = {word: text.count(word) * (len(old.encode(word).ids) - 1) for word in (" qzxj", " zzq", " jq")}
    assert best["text"] == max(saved, key=lambda word: saved[word])


def test_uptake_is_what_reading_the_text_in_both_spellings_gives(save_tiny: Any, corpus: str, tmp_path: Path) -> None:
    source = save_tiny(tmp_path / "source")
    student = checkpoints.load(expand(tmp_path / "out", source, corpus, steps=0, loss=[]))
    first = checkpoints.load(source).tokenbytes.size
    word = next(text for text in TEXT.split() if student.tokenbytes.encode(f"a {text}").ids[-1] >= first)
    text = f"a {word}"
    ids = student.tokenbytes.encode(text).ids.tolist()
    spelt = spellings(student.tokenbytes, first)
    old = [one for index in ids for one in (spelt[index - first] if index >= first else (index,))]
    length = len(spelt[ids[-1] - first])
    with torch.no_grad():
        ours = student.model(torch.tensor([ids])).logits[0].softmax(-1)
        theirs = student.model(torch.tensor([old])).logits[0].softmax(-1)
    spelling = math.prod(float(theirs[-1 - length + n, old[n - length]]) for n in range(length))
    found = uptake(student, first, [text])
    new = [index for index in ids if index >= first]
    assert len(new) == 1
    assert found["p_new"] == pytest.approx(float(ours[-2, ids[-1]]), abs=1e-6)
    assert found["p_spelling"] == pytest.approx(spelling, abs=1e-6)
    assert found["token_share"] == pytest.approx(1 / len(ids), abs=1e-6)
    assert found["byte_share"] == pytest.approx(student.tokenbytes.lengths[ids[-1]] / len(text), abs=1e-6)
    assert (found["distinct"], found["unused"]) == (1, 23)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ({"list": []}, "empty: no token is listed"),
        ({"list": ["e"]}, "is a token already"),
        ({"list": ["two words of text"]}, "are unreachable"),
        ({"train_bpe": {"corpus": "CORPUS", "size": 5000}}, "of 5000"),
        ({"frequency": {"corpus": "CORPUS", "size": 5000}}, "of 5000"),
        ("train_bpe:500", "write train_bpe:CORPUS:SIZE"),
        ("list:/nowhere", "cannot be read"),
    ],
)
def test_tokens_that_cannot_be_added_are_one_clear_line(
    tokens: Any, message: str, save_tiny: Any, corpus: str, tmp_path: Path
) -> None:
    if isinstance(tokens, dict):
        tokens = json.loads(json.dumps(tokens).replace("CORPUS", corpus))
    with pytest.raises(UserError, match=message):
        expand(tmp_path / "out", save_tiny(tmp_path / "source"), corpus, tokens=tokens)
    assert not (tmp_path / "out").exists()


def test_only_an_expansion_knows_new_rows(save_tiny: Any, corpus: str, tmp_path: Path) -> None:
    source = str(save_tiny(tmp_path / "source"))
    with pytest.raises(UserError, match="new_rows"):
        check_student("distil", {"from": source, "teacher": source, "loss": ["sft"], "train": "new_rows"})


def test_a_tokenizer_that_is_no_bpe_cannot_be_expanded(save_tiny: Any, corpus: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="of type Unigram cannot be expanded"):
        expand(tmp_path / "out", save_tiny(tmp_path / "source", "unigram"), corpus)
