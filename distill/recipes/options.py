"""Options of every recipe as typed records. Reading and checking them imports neither torch nor any method.

Names of losses and initialisers are checked against the registry; their own options are checked when a student is
planned or made (:func:`crosstok.distill.recipes.methods.check_methods`), which imports them.
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, ValidationError, model_validator

from crosstok.distill.expansion.tokens_spec import TokensSpec
from crosstok.distill.registry import INITIALISERS, LOSSES, plain
from crosstok.distill.training.options import TrainingSpec
from crosstok.errors import UserError, unknown_name

Choice = str | dict[str, Any]
"""A method by name, or a mapping of ``name`` and options."""

_DEFAULT_STEPS = 200

RECONSTRUCTION = "after arXiv 2508.15807, details reconstructed"
"""Description of the method of ``expand`` in tables and provenance."""


class StudentSpec(TrainingSpec):
    """Options that every recipe has."""

    kind: ClassVar[str]
    """The recipe's name: the key in a suite, and the command."""
    parents: ClassVar[Mapping[str, str]] = {"from": "source"}
    """Options that name a model, and the fields that hold them."""
    adds_tokens: ClassVar[bool] = False
    """Whether ``train: new_rows`` is possible: the recipe knows which rows are new."""

    steps: int = Field(
        default=_DEFAULT_STEPS,
        ge=0,
        description="Optimizer steps; 0 only initialises. Default: 200 where there is a loss, otherwise 0.",
    )
    source: str = Field(alias="from", description="The model to begin with: any model source.")
    loss: tuple[Choice, ...] = Field(default=(), description="Training objectives; none: initialised only.")
    corpus: str = Field(default="stdlib", description="Text source to train on.")

    @model_validator(mode="before")
    @classmethod
    def _steps_only_with_a_loss(cls, value: Any) -> Any:
        default = cls.model_fields["loss"].default
        if isinstance(value, Mapping) and "steps" not in value:
            return {**value, "steps": _DEFAULT_STEPS if value.get("loss", default) else 0}
        return value

    @model_validator(mode="after")
    def _adds_up(self) -> "StudentSpec":
        if self.steps and not self.loss:
            raise ValueError(f"steps is {self.steps} but loss is empty; name a loss, or set steps to 0")
        if self.train == "new_rows" and not self.adds_tokens:
            raise ValueError("train is new_rows, which only expand knows; take full, lora or embeddings")
        repeated = {name for name in self.loss_names if self.loss_names.count(name) > 1}
        if repeated:
            raise ValueError(f"loss names {min(repeated)} twice; use its weight instead")
        return self

    @property
    def loss_names(self) -> list[str]:
        """The names of the losses."""
        return [name_of(choice) for choice in self.loss]

    @property
    @abstractmethod
    def label(self) -> str:
        """What the student is, in a few words for a table."""

    def check_names(self) -> None:
        """Raise UserError for a loss that neither crosstok nor an installed package has."""
        for choice in self.loss:
            LOSSES.check_name(choice)


class NewVocabularySpec(StudentSpec):
    """Options of recipes that make embedding rows."""

    init: Choice = Field(default="fvt", description="Initialiser of the new embedding rows.")

    @property
    def init_name(self) -> str:
        """The initialiser's name."""
        return name_of(self.init)

    def check_names(self) -> None:
        """Raise UserError for a loss or an initialiser that neither crosstok nor an installed package has."""
        INITIALISERS.check_name(self.init)
        super().check_names()


class TransferSpec(NewVocabularySpec):
    """Options of ``transfer``, which moves a model to another tokenizer."""

    kind: ClassVar[str] = "transfer"

    tokenizer: str = Field(description="The new tokenizer: any tokenizer source, `bytes` or `train:bpe:CORPUS:SIZE`.")
    specials: Literal["keep", "replace"] = Field(
        default="keep", description="Keep the model's own special tokens, or take those of the new tokenizer."
    )
    embeddings: Literal["keep", "untie", "tie"] = Field(
        default="keep", description="Input and output matrix: as they are in the source, apart, or one."
    )
    ngrams: bool = Field(default=False, description="Let each byte read the longest old token that ends there.")

    @property
    def label(self) -> str:
        """Tokenizer, initialiser and losses."""
        losses = "+".join(self.loss_names) if self.steps else "not trained"
        return f"{self.tokenizer}, {self.init_name}, {losses}"


class DistilSpec(StudentSpec):
    """Options of ``distil``, in which another model teaches one that keeps its tokenizer."""

    kind: ClassVar[str] = "distil"
    parents: ClassVar[Mapping[str, str]] = {"from": "source", "teacher": "teacher"}

    teacher: str = Field(description="The model that teaches: any model source.")
    loss: tuple[Choice, ...] = Field(default=("alm",), description="Training objectives.")

    @model_validator(mode="after")
    def _is_trained(self) -> "DistilSpec":
        if not self.steps:
            raise ValueError("steps is 0, and a student that is not taught is its source")
        return self

    @property
    def label(self) -> str:
        """The teacher and the losses."""
        return f"taught by {self.teacher.rpartition('/')[2]}, {'+'.join(self.loss_names)}"


class ExpandSpec(NewVocabularySpec):
    """Options of ``expand``, which adds tokens to a model's vocabulary."""

    kind: ClassVar[str] = "expand"
    adds_tokens: ClassVar[bool] = True

    tokens: TokensSpec = Field(description="The new tokens: list, train_bpe or frequency.")
    loss: tuple[Choice, ...] = Field(default=("kl",), description="Training objectives: kl, sft or both.")
    train: Literal["full", "lora", "embeddings", "new_rows"] = Field(
        default="new_rows", description="Which parameters learn: the new rows alone, or as in other recipes."
    )

    @property
    def label(self) -> str:
        """Tokens, initialiser, losses and trained parameters."""
        trained = f"{'+'.join(self.loss_names)} on {self.train.replace('_', ' ')}" if self.steps else "not trained"
        return f"{self.tokens.label}, {self.init_name}, {trained} ({RECONSTRUCTION})"


RECIPES: dict[str, type[StudentSpec]] = {spec.kind: spec for spec in (TransferSpec, DistilSpec, ExpandSpec)}
"""By the name that a suite gives them."""


def name_of(choice: Choice) -> str:
    """Return the name of a method."""
    return choice if isinstance(choice, str) else str(choice.get("name"))


def read_recipe(recipe: str, options: Mapping[str, Any], name: str = "student") -> StudentSpec:
    """Return the options of model ``name``, made by ``recipe``, without importing a method or torch.

    Raises UserError for an unknown recipe or key, a value out of range, and an unknown loss or initialiser.
    """
    if recipe not in RECIPES:
        raise unknown_name("recipe", recipe, RECIPES)
    kind = RECIPES[recipe]
    known = [field.alias or key for key, field in kind.model_fields.items()]
    for key in options:
        if key not in known:
            raise unknown_name(f"option of {name}", str(key), known)
    try:
        spec = kind.model_validate(dict(options))
    except ValidationError as error:
        raise UserError(f"{name}: {plain(error)}.") from error
    spec.check_names()
    return spec


def at(spec: StudentSpec, sources: Mapping[str, str]) -> StudentSpec:
    """Return ``spec`` with other locations of the models that it is made from: option to source."""
    return spec.model_copy(update={spec.parents[option]: source for option, source in sources.items()})
