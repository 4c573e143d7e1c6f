"""Expanded tokenizers out of the cache: a grid of students has one expansion, and learning it takes half a minute."""

import json
from pathlib import Path

import tokenizers
from transformers import PreTrainedTokenizerFast

from crosstok.corpora import load_texts
from crosstok.distill.expansion.selection import Expansion, expand_tokenizer, strings
from crosstok.distill.expansion.tokens_spec import TokensSpec
from crosstok.distill.sources.atomic import build_once
from crosstok.distill.sources.tokenizers import read_tokenizer
from crosstok.distill.tokenizers.spellings import spellings
from crosstok.distill.tokenizers.tokenbytes import TokenBytes
from crosstok.fingerprint import fingerprint
from crosstok.folders import cache_folder

FILE = "expansion.json"
"""What an expansion says of itself, beside its tokenizer: ``first``, ``report``, a row per new token (``table``)."""
_VERSION = 1  # raised whenever the same text would give other tokens


def expansion_of(
    tokenizer: PreTrainedTokenizerFast, old: TokenBytes, spec: TokensSpec, data: Path | None = None
) -> Expansion:
    """Return ``tokenizer`` (whose table is ``old``) with more tokens; fails as :func:`expand_tokenizer` does."""
    texts = load_texts(spec.text.corpus, "train", data).source["sha256"] if spec.text else None
    decided_by = {
        "version": _VERSION,
        "library": tokenizers.__version__,
        "tokenizer": old.fingerprint,
        "template": tokenizer.chat_template,
        "tokens": spec.model_dump(mode="json", exclude={"list"}),
        "list": strings(spec.list) if spec.list is not None else None,
        "texts": texts,
    }

    def build(folder: Path) -> None:
        found = expand_tokenizer(tokenizer, spec, data)
        found.tokenizer.save_pretrained(folder)
        content = {"first": found.first, "report": found.report, "table": found.table}
        (folder / FILE).write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")

    folder = build_once(cache_folder() / "tokenizers" / f"expanded-{fingerprint(decided_by)}", build)
    grown = read_tokenizer(folder)
    tokens = TokenBytes.from_tokenizer(grown)
    content = json.loads((folder / FILE).read_text(encoding="utf-8"))
    first = content["first"]
    return Expansion(grown, tokens, first, spellings(tokens, first), content["report"], content["table"])
