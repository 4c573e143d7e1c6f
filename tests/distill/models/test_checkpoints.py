"""Checkpoints: model and tokenizer agree, what is saved comes back bit for bit, what is wrong is one clear line."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import tiny_model
from tokenizers import AddedToken
from toy_tokenizers import toy_tokenizer

from crosstok.distill.models import checkpoints, provenance
from crosstok.distill.models.checkpoints import Checkpoint
from crosstok.distill.models.provenance import Provenance
from crosstok.distill.models.weights import is_tied
from crosstok.distill.sources import wheels
from crosstok.distill.tokenizers.roles import Roles
from crosstok.distill.tokenizers.tokenbytes import RoundTripError
from crosstok.errors import UserError

Save = Callable[..., Path]


def logits(checkpoint: Checkpoint) -> torch.Tensor:
    with torch.no_grad():
        return checkpoint.model(torch.arange(20)[None]).logits


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


# Saving and loading.


@pytest.mark.parametrize("shape", ["llama", "gpt2", "gemma3"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_saved_checkpoint_comes_back_with_equal_logits_tie_and_tokenizer(
    tmp_path: Path, save_tiny: Save, shape: str, tied: bool
) -> None:
    first = checkpoints.load(save_tiny(tmp_path / "a", shape=shape, tied=tied))
    checkpoints.save(first, tmp_path / "b", first.provenance)
    second = checkpoints.load(tmp_path / "b")
    assert torch.equal(logits(first), logits(second))
    assert is_tied(first.model) is is_tied(second.model) is tied
    assert second.model.config.tie_word_embeddings is tied
    assert second.tokenbytes.fingerprint == first.tokenbytes.fingerprint
    assert second.provenance == first.provenance
    assert second.fingerprint == first.fingerprint


def test_a_matrix_that_was_untied_is_saved_untied_whatever_the_config_said(tmp_path: Path, save_tiny: Save) -> None:
    first = checkpoints.load(save_tiny(tmp_path / "a", tied=True))
    head = first.model.get_output_embeddings()
    head.weight = torch.nn.Parameter(head.weight.detach().clone() * 2)
    checkpoints.save(first, tmp_path / "b", first.provenance)
    second = checkpoints.load(tmp_path / "b")
    assert not is_tied(second.model)
    assert torch.equal(logits(first), logits(second))


def test_saving_keeps_chat_template_and_generation_config(tmp_path: Path, save_tiny: Save) -> None:
    folder = save_tiny(tmp_path / "a")
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m['content'] }}<eos>{% endfor %}")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 5], "max_length": 99}))
    first = checkpoints.load(folder)
    checkpoints.save(first, tmp_path / "b", first.provenance)
    second = checkpoints.load(tmp_path / "b")
    assert second.tokenizer.chat_template == first.tokenizer.chat_template
    assert second.model.generation_config.max_length == 99
    assert {2, 5} <= second.stop_ids == first.stop_ids


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_weights_are_loaded_in_the_dtype_that_is_asked_for(tmp_path: Path, save_tiny: Save, dtype: str) -> None:
    loaded = checkpoints.load(save_tiny(tmp_path / "a"), dtype=dtype)
    assert {weight.dtype for weight in loaded.model.parameters()} == {getattr(torch, dtype)}
    assert not loaded.model.training


def test_an_unknown_dtype_gets_a_suggestion(tmp_path: Path, save_tiny: Save) -> None:
    with pytest.raises(UserError, match="'bfloat16'"):
        checkpoints.load(save_tiny(tmp_path / "a"), dtype="bfloat")


# Model and tokenizer.


def test_ids_past_the_matrix_are_refused_by_name(tmp_path: Path, save_tiny: Save) -> None:
    size = len(toy_tokenizer("bpe"))
    folder = save_tiny(tmp_path / "a")
    tokenizer = checkpoints.load(folder).tokenizer
    tokenizer.add_special_tokens({"additional_special_tokens": [AddedToken("<image_soft_token>", special=True)]})
    tokenizer.save_pretrained(folder)
    with pytest.raises(UserError, match=rf"ids beyond the {size} rows of its matrix: {size} '?<image_soft_token>"):
        checkpoints.load(folder)


def test_rows_of_a_padded_vocabulary_are_not_valid(tmp_path: Path, save_tiny: Save) -> None:
    size = len(toy_tokenizer("bpe"))
    loaded = checkpoints.load(save_tiny(tmp_path / "a", rows=size + 37))
    assert loaded.valid_rows == size
    assert logits(loaded).shape[-1] == size + 37
    assert (loaded.provenance["rows"], loaded.provenance["valid_rows"]) == (size + 37, size)


def test_a_bos_counts_only_where_the_tokenizer_adds_it(tmp_path: Path, save_tiny: Save) -> None:
    plain = checkpoints.load(save_tiny(tmp_path / "a", tokenizer="bpe"))
    with_bos = checkpoints.load(save_tiny(tmp_path / "b", tokenizer="bos"))
    assert plain.bos_id is None
    assert plain.roles.bos is not None
    assert with_bos.bos_id == with_bos.roles.bos == toy_tokenizer("bos").bos_token_id


def test_generation_stops_at_the_ends_of_turn_and_of_text() -> None:
    assert Roles(bos=1, eos=2, pad=2, end_of_turn=2, end_of_text=0).stop_ids == {0, 2}
    assert Roles(bos=1).stop_ids == frozenset()
    assert Roles(eos=0, end_of_text=0).as_dict() == {"eos": 0, "end_of_text": 0}


# Folders that contradict themselves.


def test_a_missing_weight_is_an_error_and_not_random_numbers(tmp_path: Path, save_tiny: Save) -> None:
    folder = save_tiny(tmp_path / "a")
    edit_weights(folder, lambda weights: weights.pop("model.layers.1.mlp.up_proj.weight"))
    with pytest.raises(UserError, match=r"missing .*model\.layers\.1\.mlp\.up_proj\.weight"):
        checkpoints.load(folder)


def test_a_weight_of_another_shape_is_an_error(tmp_path: Path, save_tiny: Save) -> None:
    folder = save_tiny(tmp_path / "a")
    edit_config(folder, vocab_size=len(toy_tokenizer("bpe")) + 8)
    with pytest.raises(UserError, match=r"another shape|cannot be loaded"):
        checkpoints.load(folder)


def test_a_config_that_calls_two_matrices_tied_is_refused(tmp_path: Path, save_tiny: Save) -> None:
    folder = save_tiny(tmp_path / "a", tied=False)
    edit_config(folder, tie_word_embeddings=True)
    with pytest.raises(UserError, match=r"tie_word_embeddings=true, but the files hold two different matrices"):
        checkpoints.load(folder)


def test_equal_matrices_under_a_tied_config_are_tied(tmp_path: Path, save_tiny: Save) -> None:
    folder = save_tiny(tmp_path / "a", tied=True)
    edit_weights(
        folder, lambda weights: weights.update({"lm_head.weight": weights["model.embed_tokens.weight"].clone()})
    )
    assert is_tied(checkpoints.load(folder).model)


def test_a_config_that_calls_one_matrix_untied_is_refused(tmp_path: Path, save_tiny: Save) -> None:
    folder = save_tiny(tmp_path / "a", tied=True)
    edit_config(folder, tie_word_embeddings=False)
    with pytest.raises(UserError, match=r"missing .*lm_head\.weight"):
        checkpoints.load(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "not valid JSON"),
        (lambda folder: (folder / "config.json").write_text("[]"), "not a JSON object"),
        (lambda folder: (folder / "model.safetensors").unlink(), "cannot be loaded"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 100), "cannot be loaded"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "tokenizer"),
        (
            lambda folder: (folder / "provenance.json").write_text('{"kind": "toy"}'),
            "provenance.json is not a valid provenance record: kind",
        ),
        (lambda folder: edit_config(folder, model_type="of-tomorrow"), "cannot be loaded"),
    ],
)
def test_a_damaged_folder_is_one_clear_line(
    tmp_path: Path, save_tiny: Save, damage: Callable[[Path], None], message: str
) -> None:
    folder = save_tiny(tmp_path / "a")
    damage(folder)
    with pytest.raises(UserError, match=message) as caught:
        checkpoints.load(folder)
    assert "\n" not in str(caught.value)


# Sources.


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("/does/not/exist", r"does not exist\. Model sources: a folder"),
        ("hup:owner/name", "Unknown kind of model source 'hup' in 'hup:owner/name'. Did you mean 'hub:'"),
        ("hub:no-owner", "hub:no-owner names no model"),
        ("hub:owner/name@main", "hub:owner/name@main could not be fetched"),
        ("gguf:/does/not/exist.gguf", "The GGUF file /does/not/exist.gguf does not exist"),
        ("wheel:qwen", "wheel:qwen is a tokenizer, not a model"),
        ("wheel:smolm2-135m-instruct", "Unknown wheel .* Did you mean 'smollm2-135m-instruct'"),
    ],
)
def test_a_source_that_cannot_be_had_is_one_clear_line(
    source: str, message: str, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(empty_cache))
    with pytest.raises(UserError, match=message) as caught:
        checkpoints.load(source)
    assert "\n" not in str(caught.value)


def test_a_file_instead_of_a_folder_is_told_how_to_be_named(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").touch()
    with pytest.raises(UserError, match=rf"Write gguf:{tmp_path}/model.gguf"):
        checkpoints.fetch(tmp_path / "model.gguf")


def test_a_model_in_the_hubs_cache_loads_offline_and_is_recorded_with_its_commit(
    tmp_path: Path, save_tiny: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    hub = tmp_path / "hub"
    save_tiny(hub / "models--owner--name" / "snapshots" / commit)
    (hub / "models--owner--name" / "refs").mkdir()
    (hub / "models--owner--name" / "refs" / "v2").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub))
    loaded = checkpoints.load("hub:owner/name@v2")
    assert loaded.source == loaded.provenance["source"] == f"hub:owner/name@{commit}"
    assert checkpoints.identify("hub:owner/name@v2") == checkpoints.identify(f"hub:owner/name@{commit}")


def test_a_fingerprint_depends_on_content_and_not_on_place_or_version(
    tmp_path: Path, save_tiny: Save, empty_cache: Path
) -> None:
    folder = save_tiny(tmp_path / "a")
    before = checkpoints.identify(folder)
    copy = Path(shutil.copytree(folder, tmp_path / "b"))
    edit_config(copy, transformers_version="9.9.9")
    (copy / "provenance.json").write_text("{}")
    assert checkpoints.identify(copy) == before


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: edit_config(folder, rms_norm_eps=1e-3),
        lambda folder: edit_weights(folder, lambda weights: weights["model.norm.weight"].add_(1e-3)),
        lambda folder: toy_tokenizer("bos").save_pretrained(folder),
        lambda folder: (folder / "generation_config.json").write_text('{"eos_token_id": [2, 7]}'),
        lambda folder: (folder / "chat_template.jinja").write_text("{{ messages }}"),
    ],
)
def test_a_fingerprint_follows_every_change_that_matters(
    tmp_path: Path, save_tiny: Save, change: Callable[[Path], None]
) -> None:
    folder = save_tiny(tmp_path / "a")
    before = checkpoints.identify(folder)
    change(folder)
    assert checkpoints.identify(folder) != before


@pytest.mark.parametrize(
    "name",
    [
        *("pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json"),
        *("model.safetensors.index.json", "adapter_config.json", "adapter_model.bin", "adapter_model.safetensors"),
        *("tokenizer.model", "spiece.model", "vocab.json", "vocab.txt", "merges.txt", "added_tokens.json"),
        *("qwen.tiktoken", "chat_template.json", "additional_chat_templates/tools.jinja", "tekken.json"),
    ],
)
def test_every_file_that_the_loader_may_read_is_part_of_the_identity(
    tmp_path: Path, save_tiny: Save, name: str
) -> None:
    folder = save_tiny(tmp_path / "a")
    found = [checkpoints.identify(folder)]
    (folder / name).parent.mkdir(exist_ok=True)
    for content in ("one", "another one"):
        (folder / name).write_text(content)
        found.append(checkpoints.identify(folder))
    assert len(set(found)) == 3


@pytest.mark.parametrize(
    "name", ["README.md", "training_args.bin", "optimizer.pt", "provenance.json", "trainer_state.json"]
)
def test_files_that_the_loader_does_not_read_are_no_part_of_the_identity(
    tmp_path: Path, save_tiny: Save, name: str
) -> None:
    folder = save_tiny(tmp_path / "a")
    before = checkpoints.identify(folder)
    (folder / name).write_text("{}")
    assert checkpoints.identify(folder) == before


@pytest.mark.parametrize("place", ["index", "config"])
def test_a_weight_file_of_any_name_is_part_of_the_identity_where_the_folder_names_it(
    tmp_path: Path, save_tiny: Save, place: str
) -> None:
    folder = save_tiny(tmp_path / "a")
    if place == "config":
        edit_config(folder, transformers_weights="part-1.pt")
    else:
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"w": "part-1.pt"}}))
    found = set()
    for content in ("one", "another"):
        (folder / "part-1.pt").write_text(content)
        found.add(checkpoints.identify(folder))
    assert len(found) == 2


@pytest.mark.parametrize("content", ["no json", "[]", "{}", '{"weight_map": 3}'])
def test_an_index_that_is_damaged_does_not_keep_a_folder_from_being_identified(
    tmp_path: Path, save_tiny: Save, content: str
) -> None:
    folder = save_tiny(tmp_path / "a")
    before = checkpoints.identify(folder)
    (folder / "model.safetensors.index.json").write_text(content)
    assert checkpoints.identify(folder) != before


def test_models_that_differ_in_pytorch_model_bin_alone_are_two(tmp_path: Path, save_tiny: Save) -> None:
    folders = [save_tiny(tmp_path / name) for name in ("a", "b")]
    for number, folder in enumerate(folders):
        weights = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        torch.save({key: value + number for key, value in weights.items()}, folder / "pytorch_model.bin")
    first, second = (checkpoints.load(folder) for folder in folders)
    assert not torch.equal(logits(first), logits(second))
    assert first.fingerprint != second.fingerprint


def test_a_wheel_is_identified_without_being_fetched(empty_cache: Path) -> None:
    assert checkpoints.identify("wheel:gemma3-270m") == wheels.find("gemma3-270m").fingerprint
    assert not empty_cache.exists()


# Provenance.


def test_provenance_survives_writing_and_leaves_out_what_it_does_not_know(tmp_path: Path) -> None:
    record = Provenance(kind="student", source="wheel:x", source_fingerprint="f", losses=[{"name": "alm"}], seed=0)
    provenance.write(tmp_path, record)
    assert provenance.read(tmp_path) == record
    assert set(json.loads((tmp_path / "provenance.json").read_text())) == {
        "kind", "source", "source_fingerprint", "losses", "seed", "versions",
    }  # fmt: skip
    assert provenance.read(tmp_path / "elsewhere") is None


def test_provenance_refuses_what_it_has_no_field_for(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="recipee"):
        provenance.write(tmp_path, {"kind": "source", "source": "x", "source_fingerprint": "f", "recipee": 1})


def test_a_save_that_fails_leaves_the_old_folder_as_it_was(tmp_path: Path, save_tiny: Save) -> None:
    loaded = checkpoints.load(save_tiny(tmp_path / "a"))
    checkpoints.save(loaded, tmp_path / "b", loaded.provenance)
    before = checkpoints.identify(tmp_path / "b")
    other = replace(loaded, model=tiny_model(toy_tokenizer("bpe"), seed=9))
    with pytest.raises(ValueError, match="nonsense"):
        checkpoints.save(other, tmp_path / "b", {**loaded.provenance, "nonsense": 1})
    assert checkpoints.identify(tmp_path / "b") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


# The real model.


@pytest.mark.real
def test_smollm2_has_its_roles_and_no_bos(smollm2: Checkpoint) -> None:
    assert (smollm2.roles.bos, smollm2.roles.eos, smollm2.roles.pad, smollm2.roles.unk) == (1, 2, 2, 0)
    assert (smollm2.roles.end_of_turn, smollm2.roles.end_of_text) == (2, 0)
    assert smollm2.bos_id is None
    assert smollm2.stop_ids == {0, 2}
    assert smollm2.valid_rows == 49152
    assert is_tied(smollm2.model)


@pytest.mark.real
def test_smollm2_splits_off_every_digit(smollm2: Checkpoint) -> None:
    ids = smollm2.tokenbytes.encode("\n\n    1").ids
    assert [smollm2.tokenbytes.table[index] for index in ids] == [b"\n\n    ", b"1"]


@pytest.mark.real
def test_smollm2_says_which_bytes_it_lacks_instead_of_dropping_them(smollm2: Checkpoint) -> None:
    lacking = [value for value in range(256) if smollm2.tokenbytes.id_of(bytes([value])) is None]
    assert lacking == [0x04, 0x06, 0x13, 0x14, 0x16, 0x1D, 0xC0, 0xC1, 0xF1, 0xF2, *range(0xF5, 0x100)]
    with pytest.raises(RoundTripError):
        smollm2.tokenbytes.encode("a\x04b")


@pytest.mark.real
def test_smollm2_writes_its_chat_with_its_own_tokens(smollm2: Checkpoint) -> None:
    text = smollm2.tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert text == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.real
def test_smollm2_continues_a_well_known_sentence(smollm2: Checkpoint) -> None:
    """A row order or a norm that is off by anything turns the answer into noise."""
    ids = torch.tensor(smollm2.tokenbytes.encode("The capital of France is").ids.tolist())[None]
    with torch.no_grad():
        best = int(smollm2.model(ids).logits[0, -1].argmax())
    assert smollm2.tokenbytes.table[best] == b" Paris"


@pytest.mark.real
def test_smollm2_can_be_saved_after_its_conversion_and_comes_back_bit_for_bit(
    smollm2: Checkpoint, tmp_path: Path
) -> None:
    checkpoints.save(smollm2, tmp_path / "copy", smollm2.provenance)
    again = checkpoints.load(tmp_path / "copy")
    assert torch.equal(logits(smollm2), logits(again))
    assert again.provenance["source"] == "wheel:smollm2-135m-instruct"
    assert again.provenance["licence"] == "Apache-2.0"
