"""The model card says what the record holds: a reader of the folder learns what it is without opening anything else."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_models import tiny_model
from toy_tokenizers import TEXT, toy_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from crosstok.distill.models import checkpoints
from crosstok.distill.models.model_card import FILE, model_card
from crosstok.distill.models.provenance import Provenance, read
from crosstok.distill.recipes.student import check_student, make_student

TRANSFERRED: dict[str, Any] = {
    "kind": "student",
    "source": "hub:owner/small@0123abc",
    "source_fingerprint": "feed",
    "licence": "Apache-2.0",
    "source_tokenizer": "a",
    "target_tokenizer": "b",
    "tokenizer_source": "wheel:qwen",
    "initialiser": {"name": "fvt", "rows": {"exact": 3, "fallback": 1}},
    "losses": [{"name": "alm", "tau": 5.0, "weight": 1.0}],
    "data": [{"name": "stdlib", "documents": 7, "bytes": 99, "sha256": "cafe"}],
    "training": {"steps": 9, "batch": 4, "window_bytes": 64, "train": "new_rows", "lr": 1e-4, "precision": "float32"},
    "seed": 3,
    "tied": False,
    "rows": 8,
    "valid_rows": 6,
    "dtype": "float32",
    "metrics": {
        "first_step": {"alm": 0.5},
        "last_step": {"alm": 0.25},
        "before": {"bits_per_byte": 2.0, "chunk_kl": 1.5},
        "after": {"bits_per_byte": 1.0, "chunk_kl": 0.75, "new_tokens": {"share": 0.1}},
    },
}


def card(**change: Any) -> str:
    return model_card(Provenance.model_validate({**TRANSFERRED, **change}), "qwen, fvt, alm")


def head(text: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(text.split("---\n")[1])
    return found


def test_the_head_is_what_a_hub_reads() -> None:
    assert head(card()) == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["crosstok"],
        "base_model": "owner/small",
        "license": "apache-2.0",
    }
    assert head(card(licence="Gemma Terms of Use"))["license"] == "gemma"
    other = head(card(licence="Some Licence 2", source="wheel:small"))
    assert (other["license"], other["license_name"]) == ("other", "Some Licence 2")
    assert "base_model" not in other, "only a model of the hub can be linked there"
    assert "license" not in head(card(licence=""))


@pytest.mark.parametrize(
    "said",
    [
        "by transferring it to the tokenizer `wheel:qwen`",
        "| new rows | `fvt` (3 exact, 1 fallback) |",
        "6 ids in 8 rows, embeddings untied",
        "9 steps of 4 windows of 64 bytes, new rows, learning rate 0.0001, float32, seed 3",
        "`stdlib`: 7 documents, 99 bytes, SHA-256 `cafe`",
        "- `alm`: tau 5.0, weight 1.0",
        "| loss `alm`, first and last step | 0.5 | 0.25 |",
        "| bits per byte | 2 | 1 |",
        "| chunk kl | 1.5 | 0.75 |",
        "Licence of the source model: Apache-2.0.",
        "AutoModelForCausalLM.from_pretrained",
    ],
)
def test_everything_that_decides_a_student_is_told(said: str) -> None:
    assert said in card()


def test_a_teacher_stands_with_its_licence() -> None:
    taught = card(
        target_tokenizer="a", teacher={"source": "wheel:large", "fingerprint": "dead", "licence": "Gemma Terms of Use"}
    )
    assert "with the same tokenizer. It was distilled from `wheel:large`." in taught
    assert "Licence of the teacher: Gemma Terms of Use." in taught


def test_a_student_that_was_only_initialised_says_so_and_has_no_figures() -> None:
    text = card(training={"steps": 0}, losses=[], metrics={}, data=[])
    assert "Its new rows were initialised but not trained." in text
    assert "## Losses" not in text
    assert "## Held-out" not in text


def test_added_tokens_and_ngrams_of_bytes_are_told() -> None:
    assert "by adding 12 tokens to its vocabulary." in card(expansion={"count": 12})
    bytewise = card(ngrams=40)
    assert "checkpoints.load(" in bytewise
    assert "AutoModelForCausalLM" not in bytewise, "its input is code that transformers does not have"


def test_every_student_has_a_card_whose_way_of_loading_works(tmp_path: Path) -> None:
    tokenizer = toy_tokenizer("bos")
    for part in (tiny_model(tokenizer), tokenizer):
        part.save_pretrained(tmp_path / "source")
    (tmp_path / "texts").mkdir()
    for place, line in enumerate(TEXT.splitlines()[:8]):
        (tmp_path / "texts" / f"{place}.txt").write_text(line + "\n")
    options = {
        "from": str(tmp_path / "source"),
        "tokenizer": "bytes",
        "loss": ["alm", "sft"],
        "steps": 2,
        "batch": 2,
        "window_bytes": 64,
        "corpus": f"files:{tmp_path}/texts/*.txt",
    }
    out = make_student(check_student("transfer", options), tmp_path / "out", device="cpu")
    text = (out / FILE).read_text("utf-8")
    assert text.index("# source: bytes, fvt, alm+sft") > 0
    for section in ("How it was made", "Losses", "Held-out evaluation", "Usage", "Licence"):
        assert f"## {section}\n" in text
    record = read(out)
    assert record is not None
    assert record.data[0]["sha256"] in text
    assert "None" not in text
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert code is not None
    names: dict[str, Any] = {"AutoModelForCausalLM": AutoModelForCausalLM, "AutoTokenizer": AutoTokenizer}
    exec(code[1].replace("path/of/this/folder", str(out)), names)
    assert names["tokenizer"]("ab").input_ids == checkpoints.load(out).tokenizer("ab").input_ids
    assert names["model"].config.vocab_size == record.rows
