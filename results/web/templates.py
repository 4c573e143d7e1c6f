"""Rendering of page templates, and files that are replaced as a whole."""

import contextlib
import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import jinja2


def render_template(path: Path, **content: Any) -> str:
    """Return the Jinja template at ``path`` filled with ``content``.

    Every value is escaped as HTML unless it is ``markupsafe.Markup``. A name that the template uses and ``content``
    lacks is an error. Templates may include and extend others in their folder.
    """
    return _environment(path.parent).get_template(path.name).render(**content)


@functools.cache
def _environment(folder: Path) -> "jinja2.Environment":
    import jinja2  # only pages need it

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )


def replace_file(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8 to a temporary file beside ``path`` and rename it, so no reader meets half a file.

    Raises:
        OSError: the file cannot be written; an older one is left as it was.

    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_text(text, encoding="utf-8", newline="\n")
        unfinished.replace(path)
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
