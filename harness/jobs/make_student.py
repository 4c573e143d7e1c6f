"""Construction of one student outside of a suite, with checked options and progress."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from crosstok.distill.recipes.identity import identify_student
from crosstok.distill.recipes.student import check_student, make_student
from crosstok.progress import ProgressCallback, Reporter


def make_from_options(
    recipe: str,
    options: Mapping[str, Any],
    out: Path,
    *,
    data: Path | None = None,
    device: str = "auto",
    progress: ProgressCallback | None = None,
) -> Path:
    """Make the student of ``recipe`` with ``options`` in the folder ``out``, and return the folder.

    Raises:
        UserError: before any work, an option, method, source or text is invalid or ``out`` holds something else; or
            training fails.

    """
    spec = check_student(recipe, options, recipe)
    identity = identify_student(spec, data=data)
    with Reporter(progress) as reporter, reporter.stage(recipe, max(spec.steps, 1), 1.0) as advance:
        return make_student(spec, out, identity=identity, data=data, device=device, progress=advance)
