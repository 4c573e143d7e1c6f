"""Reading results stays light: no torch, and nothing heavy before it is needed."""

import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

from crosstok import results

MODULES = sorted(module.name for module in pkgutil.walk_packages(results.__path__, "crosstok.results."))
HEAVY = ("torch", "transformers", "tokenizers", "accelerate", "datasets")


def loaded_after(code: str) -> set[str]:
    program = f"import sys, json\n{code}\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_no_module_of_results_loads_torch_or_transformers() -> None:
    loaded = loaded_after("\n".join(f"import {name}" for name in MODULES))
    assert set(MODULES) <= loaded
    assert "crosstok.results.store.store" in loaded
    assert not loaded & set(HEAVY)


@pytest.mark.parametrize("form", ["md", "csv", "latex", "html"])
def test_making_a_table_loads_no_torch_and_no_plots(filled: Path, form: str) -> None:
    loaded = loaded_after(
        "from crosstok.results.store.store import Store\n"
        "from crosstok.results.tables.frame import comparison_frame, render\n"
        f"print(render(comparison_frame(Store({str(filled)!r}, read_only=True)), {form!r}))"
    )
    assert "pandas" in loaded
    assert not loaded & {*HEAVY, "matplotlib", "scipy.stats"}


def test_importing_the_tables_does_not_load_pandas() -> None:
    assert "pandas" not in loaded_after("import crosstok.results.store.store, crosstok.results.tables.frame")
