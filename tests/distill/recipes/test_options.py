"""Recipe options are checked when they are read, before torch or any method is imported."""

import subprocess
import sys

import pytest

from crosstok.distill.recipes.options import RECIPES, ExpandSpec, TransferSpec, read_recipe
from crosstok.errors import UserError

TRANSFER = {"from": "somewhere", "tokenizer": "bytes"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tokenizr": "bytes"}, "Unknown option of x 'tokenizr'. Did you mean 'tokenizer'?"),
        ({"loss": ["almm"]}, "Unknown loss 'almm'. Did you mean 'alm'?"),
        ({"loss": [{"nam": "alm"}]}, "A loss needs a name"),
        ({"init": "fvtt"}, "Unknown initialiser 'fvtt'. Did you mean 'fvt'?"),
        ({"steps": -1}, "x: steps: "),
        ({"train": "new_rows"}, "which only expand knows"),
        ({"steps": 3}, "loss is empty"),
    ],
)
def test_a_mistake_in_a_recipe_is_found_when_it_is_read(change: dict[str, object], said: str) -> None:
    with pytest.raises(UserError) as error:
        read_recipe("transfer", {**TRANSFER, **change}, "x")
    assert said in str(error.value)


def test_an_unknown_recipe_is_refused() -> None:
    with pytest.raises(UserError, match="Unknown recipe 'transfr'"):
        read_recipe("transfr", TRANSFER)


def test_a_class_in_a_module_is_not_imported_while_a_recipe_is_read() -> None:
    spec = read_recipe("transfer", {**TRANSFER, "loss": ["not_there_yet:Loss"], "init": "nor_this:Rows"})
    assert spec.loss_names == ["not_there_yet:Loss"]


def test_recipes_have_their_own_defaults() -> None:
    transfer = read_recipe("transfer", TRANSFER)
    assert isinstance(transfer, TransferSpec)
    assert (transfer.loss, transfer.steps, transfer.init) == ((), 0, "fvt")
    expand = read_recipe("expand", {"from": "a", "tokens": {"list": ["x"]}})
    assert isinstance(expand, ExpandSpec)
    assert (expand.loss, expand.steps, expand.train) == (("kl",), 200, "new_rows")


def test_every_option_of_every_recipe_is_described() -> None:
    missing = [f"{name}.{key}" for name, spec in RECIPES.items() for key, field in spec.model_fields.items()
               if not field.description]  # fmt: skip
    assert not missing
    for spec in RECIPES.values():
        assert spec.model_json_schema()["additionalProperties"] is False


def test_reading_a_recipe_imports_no_torch() -> None:
    code = (
        "import sys; from crosstok.distill.recipes.options import read_recipe; "
        "read_recipe('transfer', {'from': 'a', 'tokenizer': 'bytes', 'loss': ['alm'], 'init': 'fvt'}); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
