"""One way to write options of tasks, losses and initialisers on a command line."""

from typing import Any

import pytest

from crosstok.errors import UserError
from crosstok.option_text import parse_choice, parse_named, parse_option


@pytest.mark.parametrize(
    ("text", "name", "options"),
    [
        ("alm", "alm", {}),
        ("alm:tau=1,f=tvd", "alm", {"tau": 1, "f": "tvd"}),
        ("mine:AbsoluteGap", "mine:AbsoluteGap", {}),
        ("mine:AbsoluteGap:scale=0.5", "mine:AbsoluteGap", {"scale": 0.5}),
        ("lm_eval:gsm8k:limit=2", "lm_eval:gsm8k", {"limit": 2}),
        ("yaml:tasks/mine.yaml:limit=2", "yaml:tasks/mine.yaml", {"limit": 2}),
        ("text_bpb:source=jsonl:a.jsonl#text", "text_bpb", {"source": "jsonl:a.jsonl#text"}),
        ("hidden:layers=[[1,2],[3,4]],metric=cosine", "hidden", {"layers": [[1, 2], [3, 4]], "metric": "cosine"}),
    ],
)
def test_a_name_with_options_is_taken_apart(text: str, name: str, options: dict[str, Any]) -> None:
    assert parse_named(text) == (name, options)
    assert parse_choice(text) == ({"name": name, **options} if options else name)


def test_what_is_no_option_is_one_line() -> None:
    with pytest.raises(UserError, match="'steps' is not an option"):
        parse_option("steps")
    with pytest.raises(UserError, match="not valid YAML"):
        parse_option("layers=[1,")
    with pytest.raises(UserError, match="names a method twice"):
        parse_choice("alm:name=sft")
