"""Identity of a student: a fingerprint of everything that decides its weights.

The plan of a suite names a student's folder in the cache by this fingerprint, and the student records it in its
provenance, so that an existing folder is used again only where the same recipe would give the same weights.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from crosstok.corpora import load_texts
from crosstok.distill.models import checkpoints
from crosstok.distill.recipes.methods import corpora_of, foreign_content
from crosstok.distill.recipes.options import StudentSpec
from crosstok.distill.training.options import STORAGE_OPTIONS
from crosstok.fingerprint import fingerprint

STUDENT_VERSION = 1
"""Raised when the same recipe would give other weights."""


@dataclass(frozen=True)
class StudentIdentity:
    """Everything that decides a student."""

    version: int
    """``STUDENT_VERSION`` of the crosstok that makes it."""
    recipe: str
    models: Mapping[str, str]
    """Fingerprint of each model that it is made from, by the option that names it."""
    settings: Mapping[str, Any]
    """All options that decide its weights, as JSON values."""
    texts: Mapping[str, Mapping[str, Any]]
    """Origin and hash of each text that is read, by name."""
    code: Mapping[str, str]
    """Hashes of plug-in methods, donor models and files of tokens; built-in methods change with the version."""

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits."""
        parts = {
            "version": self.version,
            "recipe": self.recipe,
            "models": dict(self.models),
            "settings": dict(self.settings),
            "texts": {name: dict(source) for name, source in self.texts.items()},
        }
        return fingerprint(parts | ({"code": dict(self.code)} if self.code else {}))


class Identifier:
    """Identifies models, texts and students; each source and each text is read once."""

    def __init__(self, data: Path | None = None) -> None:
        """``data`` is the data folder of texts."""
        self._data = data
        self._models: dict[str, str] = {}
        self._texts: dict[str, Mapping[str, Any]] = {}

    def model(self, source: str) -> str:
        """Return the content fingerprint of a model source. Raises UserError for one that does not exist."""
        if source not in self._models:
            self._models[source] = checkpoints.identify(source)
        return self._models[source]

    def text(self, corpus: str) -> Mapping[str, Any]:
        """Return origin and hash of a training text. Raises UserError for one that does not exist."""
        if corpus not in self._texts:
            self._texts[corpus] = load_texts(corpus, "train", self._data).source
        return self._texts[corpus]

    def student(self, spec: StudentSpec, parents: Mapping[str, str] | None = None) -> StudentIdentity:
        """Return the identity of the student that ``spec`` describes; no weights are loaded.

        ``parents`` gives the fingerprints of models that are made in the same run, by option (``from``, ``teacher``).
        Raises UserError for sources and texts that do not exist.
        """
        made = parents or {}
        settings = spec.model_dump(mode="json", exclude={*spec.parents.values(), *STORAGE_OPTIONS})
        if not spec.steps:
            settings.pop("seed")
        return StudentIdentity(
            version=STUDENT_VERSION,
            recipe=spec.kind,
            models={
                option: made[option] if option in made else self.model(getattr(spec, field))
                for option, field in spec.parents.items()
            },
            settings=settings,
            texts={corpus: self.text(corpus) for corpus in corpora_of(spec)},
            code=foreign_content(spec),
        )


def identify_student(spec: StudentSpec, *, data: Path | None = None) -> StudentIdentity:
    """Return the identity of one student; see :meth:`Identifier.student`."""
    return Identifier(data).student(spec)
