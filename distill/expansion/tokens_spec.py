"""Which tokens a vocabulary is to have in addition, as a suite or a command line says it.

| ``tokens`` | on a command line | what is chosen |
|---|---|---|
| ``{list: [...]}`` or ``{list: FILE}`` | ``list:FILE`` | these strings, one a line in a file |
| ``{train_bpe: {corpus, size}}`` | ``train_bpe:CORPUS:SIZE`` | the next ``size`` merges of BPE training on a text |
| ``{frequency: {corpus, size}}`` | ``frequency:CORPUS:SIZE`` | the ``size`` words that save most tokens |
"""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

_KINDS = ("list", "train_bpe", "frequency")


class FromText(BaseModel):
    """How many tokens to take from which text."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    corpus: str = Field(description="Text source whose training part they are learnt from.")
    size: int = Field(ge=1, description="How many.")
    limit_bytes: int = Field(default=4 << 20, ge=1, description="How much of the text is read.")


class TokensSpec(BaseModel):
    """Which tokens to add: exactly one of the three."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    list: tuple[str, ...] | str | None = Field(default=None, description="The tokens, or a file with one a line.")
    train_bpe: FromText | None = Field(default=None, description="The next merges of BPE training on a text.")
    frequency: FromText | None = Field(default=None, description="The words of a text that save most tokens.")

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        """Read what a command line says."""
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
            raise ValueError(f"exactly one of {', '.join(_KINDS)} is needed")
        return self

    @property
    def text(self) -> FromText | None:
        """What is read, if a text is."""
        return self.train_bpe or self.frequency

    @property
    def label(self) -> str:
        """What is added, in a few words."""
        if self.text is not None:
            how = "merges learnt on" if self.train_bpe else "words of"
            return f"+{self.text.size} {how} {self.text.corpus}"
        return "+ a list of tokens" if isinstance(self.list, str) else f"+{len(self.list or ())} listed tokens"
