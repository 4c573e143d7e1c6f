"""Cache of expanded tokenizers, shared by all students of a grid, as learning the merges takes half a minute."""

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
"""Description of an expansion, stored with its tokenizer: ``first``, ``report``, and ``table``."""
_VERSION = 1  # increment when the same text would give different tokens


def expansion_of(
    tokenizer: PreTrainedTokenizerFast, old: TokenBytes, spec: TokensSpec, data: Path | None = None
) -> Expansion:
    """Return ``tokenizer`` (token bytes ``old``) with the tokens of ``spec``; see :func:`expand_tokenizer`."""
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
