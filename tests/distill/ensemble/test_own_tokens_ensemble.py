"""Ensembles whose members read in their own tokens: each one reads what it would read alone."""

import copy
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import tiny_model
from tokenizers import Tokenizer, normalizers
from torch.testing import assert_close
from toy_tokenizers import TEXT, toy_tokenizer
from transformers import PreTrainedModel

from crosstok.distill.ensemble import EnsembleForCausalLM, OwnTokensEnsemble, save_ensemble
from crosstok.distill.ensemble.canonical import ControlTokens, ensemble_tokenizer
from crosstok.distill.ensemble.members import SharedWeights
from crosstok.distill.ensemble.vocabularies import encode_bytes, token_maps
from crosstok.distill.models import checkpoints
from crosstok.distill.tokenizers.chat import chat_parts, encode_parts
from crosstok.distill.tokenizers.tokenbytes import TokenBytes
from crosstok.errors import UserError

Save = Callable[..., Path]
CHATS = (
    "{% for m in messages %}<eos>{{ m['role'] }}\n{{ m['content'] }}<pad>\n{% endfor %}<eos>assistant\n",
    "{% for m in messages %}[{{ m['role'] }}: {{ m['content'] | trim }}]<eos>{% endfor %}answer, at some length:",
)


def folders_of(tmp_path: Path, save_tiny: Save, *names: str, shape: str = "llama") -> list[Path]:
    folders = []
    for seed, name in enumerate(names):
        folder = save_tiny(tmp_path / f"member{seed}", name, shape, seed=seed)
        (folder / "chat_template.jinja").write_text(CHATS[seed % 2], encoding="utf-8")
        folders.append(folder)
    return folders


def load(folder: Path) -> Any:
    return checkpoints.load(folder)


def ids_of(ensemble: Any, text: str) -> list[int]:
    return [ensemble.bos_id, *ensemble.tokenbytes.encode(text).ids.tolist()]


def logits(model: PreTrainedModel, ids: Sequence[int]) -> torch.Tensor:
    with torch.inference_mode():
        return model(torch.tensor([list(ids)])).logits[0]


def over_texts(member: Any, scores: torch.Tensor) -> torch.Tensor:
    """Return log-probabilities of the ordinary ids and, last, of any end, of all these together."""
    ordinary = [index for index, data in enumerate(member.tokenbytes.table) if data]
    ends = scores[..., sorted(member.stop_ids)].logsumexp(-1, keepdim=True)
    return torch.cat([scores[..., ordinary], ends], -1).log_softmax(-1)


def test_members_with_special_tokens_of_their_own_are_mixed_over_what_they_share(
    tmp_path: Path, save_tiny: Save
) -> None:
    folders = folders_of(tmp_path, save_tiny, "bpe", "bos")
    pair = load(save_ensemble(tmp_path / "pair", folders, tokens="shared", weights=[1, 3]))
    first, second = map(load, folders)
    text = "def mean(values):\n    return total"
    found = logits(pair.model, ids_of(pair, text))
    ids = first.tokenbytes.encode(text).ids.tolist()
    ends = sorted(first.stop_ids | second.stop_ids)
    assert ends, "the toy tokenizers have an end"
    ours = over_texts(first, logits(first.model, [first.roles.eos, *ids]))
    theirs = over_texts(second, logits(second.model, [second.bos_id, *ids]))
    wanted = torch.logaddexp(ours + math.log(0.25), theirs + math.log(0.75))
    ordinary = [index for index, data in enumerate(first.tokenbytes.table) if data]
    end = ControlTokens(pair.tokenbytes).end
    assert pair.stop_ids == {end}
    assert_close(found[:, [*ordinary, end]], wanted, atol=1e-5, rtol=1e-5)
    assert_close(found.exp().sum(-1), torch.ones(len(found)))


@pytest.mark.parametrize("tokens", ["shared", "mined", "union"])
@pytest.mark.parametrize("shape", ["llama", "gpt2", "gemma3"])
def test_identical_members_equal_one_member(tmp_path: Path, save_tiny: Save, shape: str, tokens: Any) -> None:
    folder = folders_of(tmp_path, save_tiny, "bos", shape=shape)[0]
    # A union of all tokens leaves none out.
    pair = load(save_ensemble(tmp_path / "pair", [folder, folder], tokens=tokens, top_k=10_000))
    one = load(folder)
    text = TEXT[:300]
    found = logits(pair.model, ids_of(pair, text))
    ordinary = [index for index, data in enumerate(one.tokenbytes.table) if data]
    alone = over_texts(one, logits(one.model, [one.bos_id, *one.tokenbytes.encode(text).ids.tolist()]))
    assert_close(found[:, ordinary], alone[:, :-1], atol=1e-5, rtol=1e-5)


def test_each_member_reads_a_conversation_through_its_own_template(tmp_path: Path, save_tiny: Save) -> None:
    folders = folders_of(tmp_path, save_tiny, "bpe", "bpe")
    pair = load(save_ensemble(tmp_path / "pair", folders, tokens="shared"))
    messages = [{"role": "user", "content": " What does <eos> mean? "}]
    parts = chat_parts(pair.tokenizer, messages)
    prompt = encode_parts(pair.tokenizer, pair.tokenbytes, parts)
    answer = pair.tokenbytes.encode("the end").ids.tolist()
    found = logits(pair.model, [*prompt, *answer])
    wanted = []
    for folder in folders:
        member = load(folder)
        own = encode_parts(member.tokenizer, member.tokenbytes, chat_parts(member.tokenizer, messages))
        wanted.append(over_texts(member, logits(member.model, [*own, *answer])[len(own) - 1 :]))
    ordinary = [index for index, data in enumerate(member.tokenbytes.table) if data]
    mixture = torch.logaddexp(*wanted) - math.log(2)
    assert_close(found[len(prompt) - 1 :, ordinary], mixture[:, :-1], atol=1e-5, rtol=1e-5)
    assert found[: len(prompt) - 1].isnan().all(), "no member has these columns"


@pytest.mark.parametrize("tokens", ["shared", "mined", "union"])
@pytest.mark.parametrize("combine", ["mean_prob", "mean_logit"])
def test_generation_equals_a_loop_without_cache(tmp_path: Path, save_tiny: Save, tokens: Any, combine: Any) -> None:
    names = ("bpe", "bos") if tokens == "shared" else ("bpe", "spm")
    pair = load(
        save_ensemble(tmp_path / "pair", folders_of(tmp_path, save_tiny, *names), tokens=tokens, combine=combine)
    )
    prompts = [ids_of(pair, "the hens were up"), ids_of(pair, "def push(self, value):\n    se")]
    width = max(map(len, prompts))
    ids = torch.tensor([[pair.tokenizer.pad_token_id] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    out = pair.model.generate(
        ids, attention_mask=mask, max_new_tokens=12, do_sample=False, eos_token_id=-1, pad_token_id=0
    )
    for row, prompt in enumerate(prompts):
        history = list(prompt)
        for _ in range(12):
            pair.model.forget()
            with torch.inference_mode():
                history.append(int(pair.model(torch.tensor([history]), logits_to_keep=1).logits[0, -1].argmax()))
        assert out[row, width:].tolist() == history[len(prompt) :]


@pytest.mark.parametrize("shape", ["llama", "gemma3"])
def test_beams_and_leaving_rows_change_nothing(tmp_path: Path, save_tiny: Save, shape: str) -> None:
    folders = folders_of(tmp_path, save_tiny, "bpe", "spm", shape=shape)
    pair = load(save_ensemble(tmp_path / "pair", folders, tokens="mined"))
    prompt = torch.tensor([ids_of(pair, TEXT[:200])])
    settings: dict[str, Any] = {"max_new_tokens": 10, "num_beams": 3, "do_sample": False, "pad_token_id": 0}
    found = pair.model.generate(prompt, **settings)
    uncached = pair.model.generate(prompt, use_cache=False, **settings)
    assert found.tolist() == uncached.tolist()


def test_a_pass_reads_only_what_is_new(tmp_path: Path, save_tiny: Save) -> None:
    folders = folders_of(tmp_path, save_tiny, "bpe", "spm")
    pair = load(save_ensemble(tmp_path / "pair", folders, tokens="mined"))
    read: list[int] = []
    for member in pair.model.members:
        member.register_forward_pre_hook(
            lambda _, __, given: read.append(given["input_ids"].shape[1]), with_kwargs=True
        )
    prompt = torch.tensor([ids_of(pair, TEXT[:300])])
    pair.model.generate(prompt, max_new_tokens=8, do_sample=False, eos_token_id=-1, pad_token_id=0)
    assert min(read[:2]) > 50, "the prompt"
    assert max(read[2:]) <= 8, read
    assert pair.model.passes == [8, 8]


def test_mined_and_union_answer_by_hand_where_vocabularies_differ() -> None:
    bpe, byte = (TokenBytes.from_tokenizer(toy_tokenizer(name)) for name in ("bpe", "byte"))
    word = next(index for index, data in enumerate(bpe.table) if data == b"def")
    mined, union = token_maps("mined", bpe, byte), token_maps("union", bpe, byte)
    assert byte.table[mined["to_member"][word]] in (b"d", b"e", b"f"), "two edits away, like every byte of it"
    assert byte.table[union["to_member"][word]] == b"d", "the first piece of its spelling"
    assert all(union["to_ensemble"][value] == bpe.id_of(bytes([value])) for value in range(256))
    specials = sorted(bpe.specials)
    assert (mined["to_member"][specials] == -1).all()


def test_a_union_gives_nothing_to_what_no_member_puts_up(tmp_path: Path, save_tiny: Save) -> None:
    folders = folders_of(tmp_path, save_tiny, "bpe", "spm")
    pair = load(save_ensemble(tmp_path / "pair", folders, tokens="union", top_k=3))
    with torch.inference_mode():
        last = pair.model(torch.tensor([ids_of(pair, "class Stack")]), logits_to_keep=1).logits[0, -1]
    likely = last.isfinite().sum()
    assert 2 <= likely <= 7, "three of each member's, and the end"
    assert_close(last.exp().sum(), torch.tensor(1.0))


def test_members_of_one_tokenizer_read_a_text_in_any_order_alike(tmp_path: Path, save_tiny: Save) -> None:
    folders = folders_of(tmp_path, save_tiny, "bpe", "bpe")
    one = load(save_ensemble(tmp_path / "one", folders, tokens="shared"))
    other = load(save_ensemble(tmp_path / "other", folders[::-1], tokens="shared"))
    ids = ids_of(one, TEXT[:120])
    assert_close(logits(one.model, ids), logits(other.model, ids), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("tokens", ["shared", "mined"])
@pytest.mark.parametrize("combine", ["mean_prob", "mean_logit"])
def test_a_left_padded_batch_is_scored_as_its_rows_alone(
    tmp_path: Path, save_tiny: Save, tokens: Any, combine: Any
) -> None:
    names = ("bpe", "bos") if tokens == "shared" else ("bpe", "spm")
    folders = folders_of(tmp_path, save_tiny, *names, shape="gpt2")  # its positions are absolute
    pair = load(save_ensemble(tmp_path / "pair", folders, tokens=tokens, combine=combine))
    rows = [ids_of(pair, "the hens were up"), ids_of(pair, "def push(self, value):\n    se"), ids_of(pair, "x")]
    width = max(map(len, rows))
    ids = torch.tensor([[pair.tokenizer.pad_token_id] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    with torch.inference_mode():
        together = pair.model(ids, attention_mask=mask).logits
    for found, row in zip(together, rows, strict=True):
        assert_close(found[width - len(row) :], logits(pair.model, row), atol=1e-5, rtol=1e-5)


def test_the_order_of_members_does_not_matter_where_they_answer_alike(tmp_path: Path, save_tiny: Save) -> None:
    # The first member lends its vocabulary, so that of two tokenizers the order is part of the ensemble; of one it
    # is not, weights included.
    folders = folders_of(tmp_path, save_tiny, "bpe", "bpe")
    one = load(save_ensemble(tmp_path / "one", folders, tokens="mined", combine="mean_logit", weights=[1, 3]))
    other = load(save_ensemble(tmp_path / "other", folders[::-1], tokens="mined", combine="mean_logit", weights=[3, 1]))
    ids = ids_of(one, TEXT[:120])
    assert_close(logits(one.model, ids), logits(other.model, ids), atol=1e-5, rtol=1e-5)


def test_bytes_that_are_no_text_are_spelt_by_single_bytes() -> None:
    tokens = TokenBytes.from_tokenizer(toy_tokenizer("bpe"))
    data = "naïve".encode()[:3] + b"\xff" + "é".encode()
    encoding = encode_bytes(tokens, data)
    assert tokens.decode(encoding.ids) == data
    assert encoding.ends[-1] == len(data)


def test_members_that_split_text_elsewhere_are_refused_with_the_place(tmp_path: Path, save_tiny: Save) -> None:
    folders = folders_of(tmp_path, save_tiny, "bpe", "superword")
    with pytest.raises(UserError, match="split text at different places; the first difference"):
        save_ensemble(tmp_path / "pair", folders, tokens="shared")


def test_an_unknown_kind_of_vocabulary_is_refused(tmp_path: Path, save_tiny: Save) -> None:
    folders = folders_of(tmp_path, save_tiny, "bpe", "bpe")
    with pytest.raises(UserError, match="'minde'"):
        save_ensemble(tmp_path / "pair", folders, tokens="minde")  # type: ignore[arg-type]


def test_a_conversation_that_is_closed_is_refused(tmp_path: Path, save_tiny: Save) -> None:
    pair = load(save_ensemble(tmp_path / "pair", folders_of(tmp_path, save_tiny, "bpe", "bpe"), tokens="shared"))
    closed = pair.tokenizer.apply_chat_template([{"role": "user", "content": "x"}], return_dict=False)
    with pytest.raises(UserError, match="must end with an open assistant turn"):
        logits(pair.model, closed)


def test_the_tokenizer_of_an_ensemble_keeps_the_ids_of_ordinary_tokens() -> None:
    first = TokenBytes.from_tokenizer(toy_tokenizer("bpe"))
    ours = TokenBytes.from_tokenizer(ensemble_tokenizer(toy_tokenizer("bpe")))
    assert [data for data in ours.table if data] == [data for data in first.table if data]
    assert all(ours.table[index] == data for index, data in enumerate(first.table) if data)


def test_equal_matrices_are_in_memory_once() -> None:
    models = [tiny_model(toy_tokenizer("bpe"), seed=0) for _ in range(2)] + [tiny_model(toy_tokenizer("bpe"), seed=1)]
    before = models[1](torch.tensor([[1, 2, 3]])).logits
    known = SharedWeights()
    saved = sum(known.share(model) for model in models)
    matrices = sum(weight.numel() * 4 for weight in models[0].parameters() if weight.dim() > 1)
    assert saved >= matrices
    assert torch.equal(models[1](torch.tensor([[1, 2, 3]])).logits, before)
    assert models[0].get_input_embeddings().weight is models[1].get_input_embeddings().weight
    assert models[0].get_input_embeddings().weight is not models[2].get_input_embeddings().weight


def test_an_ensemble_of_own_tokens_is_an_ensemble(tmp_path: Path, save_tiny: Save) -> None:
    folder = save_ensemble(tmp_path / "pair", folders_of(tmp_path, save_tiny, "bpe", "spm"), tokens="union")
    loaded = load(folder)
    assert isinstance(loaded.model, OwnTokensEnsemble)
    assert isinstance(loaded.model, EnsembleForCausalLM)
    assert loaded.provenance["combine"] == "mean_prob over union tokens"
    other = save_ensemble(tmp_path / "other", [tmp_path / "member0", tmp_path / "member1"], tokens="mined")
    assert checkpoints.identify(folder) != checkpoints.identify(other)


def test_a_byte_of_id_zero_is_a_token_like_any_other() -> None:
    tokens = TokenBytes.from_tokenizer(toy_tokenizer("byte"))
    assert encode_bytes(tokens, b"a\x00\xff").ids.tolist() == [97, 0, 255]
    assert encode_bytes(tokens, b"\xff\x00").ids.tolist() == [255, 0]


def test_a_text_that_a_member_would_rewrite_is_spelt_by_its_longest_tokens() -> None:
    rewriting = copy.deepcopy(toy_tokenizer("bpe"))
    rewriting.backend_tokenizer.normalizer = normalizers.NFC()
    tokens = TokenBytes.from_tokenizer(rewriting)
    data = "def cafe\u0301".encode()
    with pytest.raises(UserError, match="does not survive"):
        tokens.encode(data.decode())
    encoding = encode_bytes(tokens, data)
    assert tokens.decode(encoding.ids) == data
    assert encoding.ends[-1] == len(data)
    assert len(encoding.ids) < len(data)


@pytest.mark.parametrize("name", ["spm", "unigram"])
@pytest.mark.parametrize("kind", ["shared", "mined", "union"])
def test_a_letter_and_its_fallback_byte_keep_their_own_ids(name: str, kind: Any) -> None:
    tokens = TokenBytes.from_tokenizer(toy_tokenizer(name))
    found = token_maps(kind, tokens, tokens)["to_member"]
    ordinary = [index for index, data in enumerate(tokens.table) if data]
    assert found[ordinary].tolist() == ordinary
    assert tokens.table.count(b"a") == 2


def test_a_token_that_one_member_lacks_never_appears_and_is_refused_in_a_text(tmp_path: Path, save_tiny: Save) -> None:
    folders = folders_of(tmp_path, save_tiny, "bpe", "bpe")
    tokens = TokenBytes.from_tokenizer(toy_tokenizer("bpe"))
    unreachable = with_piece(toy_tokenizer("bpe"), "xqxqx")  # no merge makes it, so both split alike
    tiny_model(unreachable, seed=0).save_pretrained(folders[0])
    unreachable.save_pretrained(folders[0])
    pair = load(save_ensemble(tmp_path / "pair", folders, tokens="shared"))
    place = pair.tokenbytes.id_of(b"xqxqx")
    assert tokens.id_of(b"xqxqx") is None
    assert place is not None
    assert (logits(pair.model, ids_of(pair, TEXT[:80]))[:, place] == -math.inf).all()
    with pytest.raises(UserError, match="has no token for b'xqxqx'"):
        logits(pair.model, [*ids_of(pair, "def"), place, 5])


def with_piece(tokenizer: Any, piece: str) -> Any:
    settings = json.loads(tokenizer.backend_tokenizer.to_str())
    settings["model"]["vocab"][piece] = len(tokenizer)
    made = copy.deepcopy(tokenizer)
    made._tokenizer = Tokenizer.from_str(json.dumps(settings))
    return made


def test_where_all_put_up_special_tokens_alone_a_union_lets_anything_follow(tmp_path: Path, save_tiny: Save) -> None:
    folders = folders_of(tmp_path, save_tiny, "bpe", "bpe")
    pair = load(save_ensemble(tmp_path / "pair", folders, tokens="union", top_k=1))
    member = pair.model._apart[0]
    pad = next(index for index in member.tokenbytes.specials if index not in member.stop_ids)
    said = torch.zeros(1, 1, member.tokenbytes.size)
    said[..., pad] = 9.0
    found = pair.model._combined([pair.model._mapped(number, said) for number in (0, 1)])
    assert_close(found.exp().sum(-1), torch.ones(1, 1))
    said[..., min(member.stop_ids)] = 10.0
    found = pair.model._combined([pair.model._mapped(number, said) for number in (0, 1)])
    assert found[0, 0].argmax() == ControlTokens(pair.tokenbytes).end
    assert found.isfinite().sum() == 1
