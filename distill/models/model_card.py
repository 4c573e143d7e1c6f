"""Model cards: the ``README.md`` beside a student's weights, in the format of model hubs.

A card presents the content of ``provenance.json`` to people, and nothing else: what the model is, how it was made, its
licence, what training changed, and how to load it. A folder that is copied or uploaded thereby documents itself.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from crosstok.distill.models.provenance import Provenance
from crosstok.model_source import ModelSource

FILE = "README.md"

_HUB_LICENCES = {"Apache-2.0": "apache-2.0", "MIT": "mit", "Gemma Terms of Use": "gemma"}
_PLAIN = """from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("path/of/this/folder")
tokenizer = AutoTokenizer.from_pretrained("path/of/this/folder")"""
_OWN_CODE = """from crosstok.distill.models import checkpoints  # the n-gram input is implemented in crosstok

checkpoint = checkpoints.load("path/of/this/folder")
model, tokenizer = checkpoint.model, checkpoint.tokenizer"""


def write(folder: Path, record: Provenance | Mapping[str, Any], about: str) -> None:
    """Write the card of the student in ``folder``; ``about`` is a short title."""
    checked = record if isinstance(record, Provenance) else Provenance.model_validate(dict(record))
    (folder / FILE).write_text(model_card(checked, about), encoding="utf-8")


def model_card(record: Provenance, about: str) -> str:
    """Return the card as Markdown with YAML front matter."""
    parts = [f"# {record.source}: {about}", _what(record), *_sections(record)]
    return f"---\n{yaml.safe_dump(_head(record), sort_keys=False)}---\n\n" + "\n\n".join(parts) + "\n"


def _head(record: Provenance) -> dict[str, Any]:
    source = ModelSource.recognise(record.source)
    head: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "text-generation", "tags": ["crosstok"]}
    if source and source.kind == "hub":
        head["base_model"] = source.location
    if record.licence:
        head["license"] = _HUB_LICENCES.get(record.licence, "other")
        if head["license"] == "other":
            head["license_name"] = record.licence
    return head


def _what(record: Provenance) -> str:
    sentences = [f"A causal language model derived from `{record.source}`"]
    if record.expansion:
        sentences[0] += f" by adding {record.expansion['count']} tokens to its vocabulary."
    elif record.source_tokenizer != record.target_tokenizer:
        sentences[0] += f" by transferring it to the tokenizer `{record.tokenizer_source}`."
    else:
        sentences[0] += ", with the same tokenizer."
    if record.teacher:
        sentences.append(f"It was distilled from `{record.teacher['source']}`.")
    if not record.training.get("steps"):
        sentences.append("Its new rows were initialised but not trained.")
    return " ".join(sentences)


def _sections(record: Provenance) -> Iterator[str]:
    yield "## How it was made\n\n" + _table(_made(record))
    if record.losses:
        yield "## Losses\n\n" + "\n".join(f"- `{loss['name']}`{_options(loss)}" for loss in record.losses)
    if measured := _measured(record.metrics):
        yield (
            "## Held-out evaluation\n\nOn a few windows of held-out text, as a sanity check of the training run and "
            "not as a benchmark. Lower is better.\n\n" + measured
        )
    yield f"## Usage\n\n```python\n{_OWN_CODE if record.ngrams else _PLAIN}\n```"
    yield "## Licence\n\n" + _licence(record)
    version = record.versions["crosstok"]
    yield f"`provenance.json` holds the full record. Made with crosstok {version}."


def _made(record: Provenance) -> dict[str, str]:
    rows = {"source": f"`{record.source}` (fingerprint `{record.source_fingerprint}`)"}
    if record.teacher:
        rows["teacher"] = f"`{record.teacher['source']}` (fingerprint `{record.teacher['fingerprint']}`)"
    if record.initialiser:
        counts = ", ".join(f"{count} {origin}" for origin, count in record.initialiser.get("rows", {}).items())
        rows["new rows"] = f"`{record.initialiser['name']}`{f' ({counts})' if counts else ''}"
    if record.specials:
        rows["special tokens"] = record.specials
    rows["vocabulary"] = f"{record.valid_rows} ids in {record.rows} rows, embeddings {'' if record.tied else 'un'}tied"
    if record.ngrams:
        rows["byte n-grams"] = f"{record.ngrams} old tokens in the input table"
    training = record.training
    if training.get("steps"):
        trained = training["train"].replace("_", " ")
        rows["training"] = (
            f"{training['steps']} steps of {training['batch']} windows of {training['window_bytes']} bytes, "
            f"{trained}, learning rate {training['lr']:g}, {training['precision']}, seed {record.seed}"
        )
    for text in record.data:
        rows["text"] = (
            f"`{text['name']}`: {text['documents']} documents, {text['bytes']} bytes, SHA-256 `{text['sha256']}`"
        )
    rows["weights"] = record.dtype
    return rows


def _options(loss: Mapping[str, Any]) -> str:
    options = ", ".join(f"{key} {value}" for key, value in loss.items() if key != "name")
    return f": {options}" if options else ""


def _measured(metrics: Mapping[str, Any]) -> str:
    """Return a table of the figures before and after training, empty if there are none."""
    pairs = {
        f"loss `{name}`, first and last step": (value, metrics.get("last_step", {}).get(name))
        for name, value in metrics.get("first_step", {}).items()
    }
    for name, value in metrics.get("before", {}).items():
        pairs[name.replace("_", " ")] = value, metrics.get("after", {}).get(name)
    if not pairs:
        return ""
    lines = [f"| {name} | {_number(before)} | {_number(after)} |" for name, (before, after) in pairs.items()]
    return "\n".join(["| | before | after |", "|---|---:|---:|", *lines])


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _table(rows: Mapping[str, str]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {text} |" for name, text in rows.items())])


def _licence(record: Provenance) -> str:
    own = f"Licence of the source model: {record.licence or 'unknown'}."
    if not record.teacher:
        return own
    return f"{own} Licence of the teacher: {record.teacher.get('licence') or 'unknown'}."
