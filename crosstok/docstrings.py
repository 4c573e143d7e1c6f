"""English prose from the docstrings of numpy, scipy and pandas, available on every machine.

A demonstration needs English text besides code, and Python ships with none. These three packages are dependencies of
crosstok and have extensive documentation. Their sources are parsed but not imported. Only paragraphs of sentences are
kept; examples and their output, headings, tables and parameter lists are excluded.
"""

import ast
import inspect
import json
import logging
import re
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from crosstok.errors import UserError
from crosstok.fingerprint import fingerprint
from crosstok.folders import cache_folder

log = logging.getLogger(__name__)

PACKAGES = ("numpy", "pandas", "scipy")

_VERSION = 1
"""Increment when the same packages would yield different text."""

_Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
_SHORTEST = 1500  # minimum bytes of prose for a module to become a document
_WORDS = 8  # minimum words of a paragraph
_MARKUP = re.compile(r":[a-z:]+:`~?([^`<]+?)(?:\s*<[^`>]*>)?`|``([^`]+)``")
_NOT_PROSE = re.compile(r"^\s*(>>>|\.\. |\.\.\.|[-=~*^+|]{3,}|\[\d+\])")


def package_versions() -> dict[str, str]:
    """Return the installed version of each of the packages."""
    try:
        return {name: version(name) for name in PACKAGES}
    except PackageNotFoundError as error:
        raise UserError(
            f"The text source 'docstrings' needs the package {error.name}.", hint="Install crosstok's dependencies."
        ) from None


def module_prose() -> list[tuple[str, str]]:
    """Return (``package/path.py``, prose) for every module with enough prose, ordered by path.

    Parsing takes some seconds, so the result is cached by package versions.
    """
    name = fingerprint({"extraction": _VERSION, "packages": package_versions()})
    kept = cache_folder() / "texts" / f"docstrings-{name}.json"
    try:
        return [(path, text) for path, text in json.loads(kept.read_text(encoding="utf-8"))]
    except FileNotFoundError:
        found = list(_module_prose())
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=kept.parent, delete=False, encoding="utf-8") as stream:
            json.dump(found, stream)
        Path(stream.name).replace(kept)
    except OSError as error:
        log.info("the extracted docstrings cannot be cached: %s", error)
    return found


def _module_prose() -> Iterator[tuple[str, str]]:
    for package in PACKAGES:
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            raise UserError(f"The package {package} has no source files here.", hint="Install it with pip.")
        root = Path(spec.origin).parent
        for path in sorted(root.rglob("*.py"), key=lambda path: path.relative_to(root).as_posix()):
            relative = path.relative_to(root)
            if not {"tests", "_vendored"} & set(relative.parts):
                text = prose(path.read_text(encoding="utf-8"))
                if len(text.encode()) >= _SHORTEST:
                    yield f"{package}/{relative.as_posix()}", text


def prose(source: str) -> str:
    """Return the paragraphs of sentences in the public docstrings of a Python file, in order, without duplicates."""
    kept: dict[str, None] = {}
    for docstring in _docstrings(ast.parse(source)):
        kept.update(dict.fromkeys(_paragraphs(docstring)))
    return "\n\n".join(kept) + "\n" if kept else ""


def _docstrings(node: _Documented) -> Iterator[str]:
    docstring = ast.get_docstring(node, clean=True)
    if docstring:
        yield docstring
    for child in node.body:  # not ast.walk: most of a file's nodes are expressions
        if isinstance(child, _Documented) and not (isinstance(child, ast.Module) or child.name.startswith("_")):
            yield from _docstrings(child)


def _paragraphs(docstring: str) -> Iterator[str]:
    for block in re.split(r"\n[ \t]*\n", docstring):
        lines = [line for line in block.splitlines() if not re.match(r"^\S+( *, *\S+)* *: ", line)]  # "x : array_like"
        if any(_NOT_PROSE.match(line) for line in lines):
            continue
        text = " ".join(inspect.cleandoc("\n".join(lines)).split())
        text = _MARKUP.sub(lambda match: match[1] or match[2], text)
        if text[:1].isupper() and text[-1] in ".!?" and len(text.split()) >= _WORDS:
            yield text
