"""Options that select the tokens to add to a vocabulary, in a suite or on the command line.

| ``tokens`` | command line | tokens |
|---|---|---|
| ``{list: [...]}`` or ``{list: FILE}`` | ``list:FILE`` | these strings; a file has one per line |
| ``{train_bpe: {corpus, size}}`` | ``train_bpe:CORPUS:SIZE`` | the next ``size`` merges of BPE training on a text |
| ``{frequency: {corpus, size}}`` | ``frequency:CORPUS:SIZE`` | the ``size`` words that save the most tokens |
"""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

_KINDS = ("list", "train_bpe", "frequency")


class FromText(BaseModel):
    """A text and the number of tokens to take from it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    corpus: str = Field(description="Text source; its training split is read.")
    size: int = Field(ge=1, description="How many.")
    limit_bytes: int = Field(default=4 << 20, ge=1, description="Maximum bytes of text to read.")


class TokensSpec(BaseModel):
    """The tokens to add: exactly one of the three options."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    list: tuple[str, ...] | str | None = Field(default=None, description="The tokens, or a file with one per line.")
    train_bpe: FromText | None = Field(default=None, description="The next merges of BPE training on a text.")
    frequency: FromText | None = Field(default=None, description="The words of a text that save the most tokens.")

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        """Parse the form used on the command line."""
        if not isinstance(value, str):
            return value
        kind, _, rest = value.partition(":")
        if kind == "list" and rest:
            return {"list": rest}
        corpus, _, size = rest.rpartition(":")
        if kind not in _KINDS[1:] or not corpus or not size.isdecimal():
            raise ValueError(f"write train_bpe:CORPUS:SIZE, frequency:CORPUS:SIZE or list:FILE, not {value!r}")
        return {kind: {"corpus": corpus, "size": int(size)}}

    @model_validator(mode="after")
    def _exactly_one(self) -> "TokensSpec":
        if sum(getattr(self, kind) is not None for kind in _KINDS) != 1:
            raise ValueError(f"give exactly one of {', '.join(_KINDS)}")
        return self

    @property
    def text(self) -> FromText | None:
        """The text to read, if any."""
        return self.train_bpe or self.frequency

    @property
    def label(self) -> str:
        """A short description of the tokens."""
        if self.text is not None:
            how = "merges learned on" if self.train_bpe else "words of"
            return f"+{self.text.size} {how} {self.text.corpus}"
        return "+ a list of tokens" if isinstance(self.list, str) else f"+{len(self.list or ())} listed tokens"
