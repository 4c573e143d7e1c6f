"""Suite files: YAML that names the models to make, the tasks to evaluate them on, and the settings of both.

A suite is checked completely when it is read, without importing torch: an unknown key, option or name is an error that
suggests the closest known one. ``suites/quickstart.yaml`` is a commented example; ``crosstok suite schema`` prints the
JSON Schema.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from crosstok.distill.recipes.options import RECIPES, read_recipe
from crosstok.distill.training.options import MAX_SEED
from crosstok.errors import UserError, invalid_value, unknown_name
from crosstok.model_source import ModelSource
from crosstok.tasks.collections import expand
from crosstok.tasks.registry import check_options
from crosstok.yaml_text import parse_yaml


class Part(BaseModel):
    """Base of all parts of a suite: immutable, without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class EnsembleSpec(Part):
    """An ensemble: several models of the suite that predict the next token together."""

    members: tuple[str, ...] = Field(min_length=2, description="Names of models in this suite.")
    combine: Literal["mean_prob", "mean_logit"] = Field(
        default="mean_prob", description="Average probabilities (mean_prob) or logits (mean_logit)."
    )
    weights: tuple[float, ...] | None = Field(
        default=None, description="One weight per member. Default: equal weights."
    )
    tokens: Literal["same", "shared", "mined", "union"] = Field(
        default="same",
        description="How vocabularies are combined: same (one tokenizer), shared (the same ordinary tokens, but own "
        "special tokens and chat templates), mined (nearest tokens), or union (the best tokens of each member).",
    )
    top_k: int = Field(default=10, ge=1, description="Best tokens of each member that a union takes.")


class ModelSpec(Part):
    """A model: exactly one of a source, a recipe (transfer, distil, expand) or an ensemble."""

    source: str | None = Field(
        default=None, description="Folder, hub:owner/name@revision, gguf:path, wheel:NAME or server:URL#MODEL."
    )
    transfer: dict[str, Any] | None = Field(
        default=None, description="Transfer a model to another tokenizer; options of `crosstok transfer` and `from`."
    )
    distil: dict[str, Any] | None = Field(
        default=None,
        description="Distil a teacher into a model; options of `crosstok distil`, `from` and `teacher`.",
    )
    expand: dict[str, Any] | None = Field(
        default=None, description="Add tokens to a model; options of `crosstok expand` and `from`."
    )
    ensemble: EnsembleSpec | None = Field(default=None, description="Combine several models of this suite.")
    prompt: Literal["raw", "chat"] | None = Field(
        default=None, description="Prompt style of this model. Default: that of the suite."
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> "ModelSpec":
        kinds = ("source", *RECIPES, "ensemble")
        if sum(getattr(self, key) is not None for key in kinds) != 1:
            raise ValueError(f"a model needs exactly one of: {', '.join(kinds)}")
        return self

    @property
    def recipe(self) -> tuple[str, dict[str, Any]] | None:
        """Name and options of the recipe; None for a source or an ensemble."""
        return next(((key, given) for key in RECIPES if (given := getattr(self, key)) is not None), None)


class TaskSpec(Part):
    """A task; keys other than ``name`` and ``task`` are options of the benchmark."""

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str = Field(description="Name in tables.")
    task: str | None = Field(default=None, description="Name of the benchmark, if it differs from `name`.")

    @property
    def kind(self) -> str:
        """Registered name of the benchmark."""
        return self.task or self.name

    @property
    def options(self) -> dict[str, Any]:
        """Options of the benchmark."""
        return dict(self.model_extra or {})


class SandboxSpec(Part):
    """The sandbox that runs generated programs."""

    backend: str = Field(default="auto", description="auto, bubblewrap, namespaces, docker or process.")
    workers: int = Field(default=2, ge=1, le=256, description="Programs run in parallel.")
    unsafe: bool = Field(default=False, description="Allow the backend `process`, which does not isolate programs.")
    timeout: Literal["calibrated"] | Annotated[float, Field(gt=0, le=3600)] = Field(
        default="calibrated",
        description="CPU seconds per program, or calibrated: a multiple of the time of its published solution here.",
    )


Seed = Annotated[int, Field(strict=True, ge=0, le=MAX_SEED)]


class Suite(Part):
    """A suite file."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$", description="Prefix of run ids and file names.")
    about: str = Field(default="", description="One sentence for the web page of the run.")
    models: dict[str, ModelSpec] = Field(min_length=1, description="Models by name, in the order of the table.")
    tasks: tuple[TaskSpec, ...] = Field(min_length=1, description="Tasks: names, or mappings with name and options.")
    seeds: tuple[Seed, ...] = Field(
        default=(0,), min_length=1, description="Random seeds; every trained student is made once per seed."
    )
    prompt: Literal["raw", "chat"] = Field(
        default="raw", description="Prompt style of all models without one of their own."
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        default="float32",
        description="Data type of the weights in evaluation; only float32 results are independent of the batch size.",
    )
    device: str = Field(default="auto", description="Device: auto, cpu, cuda or cuda:N.")
    heal: bool = Field(
        default=False,
        description="Token healing: regenerate the last tokens of every prompt under a prefix constraint.",
    )
    agreement_with: str | None = Field(
        default=None,
        description="Model of this suite whose next-token distributions the others are compared with on texts.",
    )
    batch_tokens: int = Field(default=4096, ge=1, description="Padded tokens per forward pass when scoring text.")
    batch_rows: int = Field(default=32, ge=1, description="Answers generated in parallel.")
    sandbox: SandboxSpec = Field(default_factory=SandboxSpec, description="Where generated programs run.")

    @model_validator(mode="before")
    @classmethod
    def _short_tasks(cls, value: Any) -> Any:
        if isinstance(value, dict) and isinstance(value.get("tasks"), list):
            tasks = expand(value["tasks"])  # a collection stands for its benchmarks
            value = {**value, "tasks": [{"name": task} if isinstance(task, str) else task for task in tasks]}
        return value

    @model_validator(mode="after")
    def _names_agree(self) -> "Suite":
        seen: set[str] = set()
        for task in self.tasks:
            if task.name in seen:
                raise ValueError(f"two tasks are called {task.name!r}; give one another name")
            seen.add(task.name)
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds has a number twice; name every seed once")
        return self


def read_suite(path: Path) -> Suite:
    """Read and check a suite file.

    Raises:
        UserError: the file cannot be read or parsed; a key is unknown or missing; a value is wrong; a task, loss or
            initialiser does not exist; a model refers to an unknown one or, through others, to itself.

    """
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"Cannot read the suite file {path}: {error.strerror}.", hint="suites/ has examples."
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "it is not UTF-8 text"
        raise UserError(f"{path} is not valid YAML{where}: {problem}.") from error
    return check_suite(content, str(path))


def check_suite(content: Any, origin: str) -> Suite:
    """Return the checked suite of ``content``; ``origin`` names it in messages. Raises what ``read_suite`` does."""
    if not isinstance(content, dict):
        raise UserError(f"{origin} is not a suite: expected a mapping with name, models and tasks.")
    try:
        suite = Suite.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{origin}: {_first_problem(error)}") from error
    with _located(origin):
        order_of_models(suite)
        if suite.agreement_with is not None and suite.agreement_with not in suite.models:
            raise unknown_name("model in `agreement_with`:", suite.agreement_with, suite.models)
    for name, spec in suite.models.items():
        with _located(f"{origin}: models.{name}"):
            if spec.source is not None:
                ModelSource.parse(spec.source)
            if spec.recipe is not None:
                kind, options = spec.recipe
                read_recipe(kind, options, kind)
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
    """Return the names of all models, each after those that it is made from."""
    ordered: list[str] = []

    def visit(name: str, trail: tuple[str, ...]) -> None:
        if name in trail:
            raise UserError(f"Circular models: {' -> '.join((*trail, name))}.")
        if name in ordered:
            return
        for needed in parents(suite, name):
            visit(needed, (*trail, name))
        ordered.append(name)

    for name in suite.models:
        visit(name, ())
    return ordered


def parents(suite: Suite, name: str) -> list[str]:
    """Return the names of the models that ``name`` is made from."""
    spec = suite.models[name]
    if spec.ensemble:
        for member in spec.ensemble.members:
            if member not in suite.models:
                raise unknown_name(f"member of model {name!r}:", member, suite.models)
        return list(spec.ensemble.members)
    return list(made_from(suite, name).values())


def made_from(suite: Suite, name: str) -> dict[str, str]:
    """Return the models of the suite that the recipe of ``name`` refers to, by option."""
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
    problems = error.errors()  # a misspelt key is also missing under its right name; report it as unknown
    problem = next((one for one in problems if one["type"] == "extra_forbidden"), problems[0])
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        key = str(problem["loc"][-1])
        inside = ".".join(str(part) for part in problem["loc"][:-1])
        return f"{inside + ': ' if inside else ''}{unknown_name('key', key, _fields_at(problem['loc'][:-1]))}"
    if problem["type"] == "missing":
        return f"the key {where!r} is missing."
    message = invalid_value(problem["msg"])
    if not where:  # a rule of the suite as a whole, whose message names what breaks it
        return f"{message}."
    return f"{where}: {message} (found: {_short(problem['input'])})."


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
