"""Base class of methods: a loss or an initialiser is one class, and its options are the fields of that class."""

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict


class Method(BaseModel):
    """Immutable options under a name.

    Options are pydantic fields, so a suite can name them, a misspelt option is refused with a hint, and provenance
    records every value. The string below a field is its description in ``crosstok methods show``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
    name: ClassVar[str]

    def describe(self) -> dict[str, Any]:
        """Return the name and all options as JSON values, as provenance records and fingerprints use them."""
        return {"name": self.name, **self.model_dump(mode="json")}
