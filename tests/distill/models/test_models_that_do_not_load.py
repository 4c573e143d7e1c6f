"""A model that the library cannot load gives one line with the reason, for every exception of the library."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.errors import StrictDataclassFieldValidationError
from transformers import AutoModelForCausalLM

from crosstok.distill.models import checkpoints
from crosstok.errors import UserError


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ImportError("Using `bitsandbytes` requires the bitsandbytes library.\nInstall it."), "Using `bitsandbytes`"),
        (KeyError("yarn3"), "KeyError: 'yarn3'"),
        (AssertionError(), "AssertionError"),
        (AssertionError("heads"), "AssertionError: heads"),
        (StrictDataclassFieldValidationError("hidden_size", TypeError("not an int")), "hidden_size.* not an int"),
        (AttributeError("no such setting"), "no such setting"),
    ],
)
def test_any_error_of_the_library_becomes_one_line(
    tmp_path: Path, save_tiny: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    folder = save_tiny(tmp_path / "a")
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", fail)
    with pytest.raises(UserError, match=f"cannot be loaded: .*{reason}") as caught:
        checkpoints.load(folder)
    assert "\n" not in str(caught.value)


def test_an_error_for_the_user_keeps_its_words(
    tmp_path: Path, save_tiny: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise UserError("The member is gone.")

    folder = save_tiny(tmp_path / "a")
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", fail)
    with pytest.raises(UserError, match=r"^The member is gone\.$"):
        checkpoints.load(folder)
