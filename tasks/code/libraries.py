"""Third-party packages that programs of benchmarks import: which ones a program needs, and what must be visible for it.

The sandbox shows a program nothing of the installed packages but those that are named, with what they require, so a
package is declared here once. The extra ``code2k`` of this project installs them all. One that is not declared, or not
installed on this host, excludes the documents that need it, by name.

Not declared is what costs more than it brings: opencv, TensorFlow, librosa, geopandas, obspy and tesseract, hundreds of
megabytes for one or two documents each.
"""

import ast
import sys
from collections.abc import Iterable
from importlib.util import find_spec

from crosstok.sandbox.program import Limits
from crosstok.tasks.code.unittests import CANDIDATE_MODULE

LIBRARIES: dict[str, tuple[str, ...]] = {
    "numpy": (),
    "pandas": ("pytz", "matplotlib", "openpyxl", "lxml"),
    "matplotlib": (),
    "sklearn": (),
    "requests": (),
    "scipy": (),
    "bs4": ("lxml",),
    "seaborn": (),
    "flask": (),
    "nltk": (),
    "faker": (),
    "django": (),
    "pytz": (),
    "gensim": (),
    "PIL": (),
    "regex": (),
    "docx": (),
    "openpyxl": (),
    "psutil": (),
    "statsmodels": (),
    "rsa": (),
    "lxml": (),
    "dateutil": (),
    "mock": (),
    "multidict": (),
    "sqlalchemy": (),
    "PyPDF2": (),
    "reportlab": (),
    "wordcloud": (),
    "wtforms": (),
    "flask_wtf": (),
    "flask_login": (),
    "flask_mail": (),
    "werkzeug": (),
    "xlwt": (),
    "Crypto": (),
    "cryptography": (),
    "pyquery": (),
    "Levenshtein": (),
    "chardet": (),
}
"""Import names, those first that most documents need, each with what it loads on demand without requiring it."""
LIMITS = Limits(memory_bytes=4 << 30, cpu_s=30.0, wall_s=120.0)
"""Of programs that work with these packages: their address space alone is more than a gigabyte."""


def needed(*sources: str) -> tuple[str, ...]:
    """Return the top-level packages outside of the standard library that the code in ``sources`` imports, sorted.

    The candidate's own module is none.
    """
    names: set[str] = set()
    for source in sources:
        try:
            tree = ast.parse(source)
        except SyntaxError:  # the sandbox will say so, of a published solution as of any other
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                names.add(node.module.partition(".")[0])
    return tuple(sorted(names - sys.stdlib_module_names - {CANDIDATE_MODULE}))


def missing(names: Iterable[str]) -> list[str]:
    """Return those of ``names`` that no program can have on this host."""
    return sorted(name for name in names if name not in LIBRARIES or not _installed(name))


def visible(names: Iterable[str]) -> tuple[str, ...]:
    """Return what the sandbox must show so that the packages ``names`` can be imported, without those missing here.

    What a package loads on demand comes with it where it is installed.
    """
    usable = sorted(set(names) - set(missing(names)))
    wanted = [name for library in usable for name in (library, *LIBRARIES[library])]
    return tuple(name for name in dict.fromkeys(wanted) if _installed(name))


def _installed(package: str) -> bool:
    return find_spec(package) is not None
