"""JSON Schema of a suite file, for editors that complete and check YAML.

The schema comes from the records that check a suite, so the two cannot disagree: the suite's own keys, the options of
every recipe, and the options of every task. It is stricter than the reader where that helps somebody who types: numbers
are not accepted as strings.
"""

from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel

from crosstok.distill.recipes.options import RECIPES
from crosstok.distill.registry import INITIALISERS, LOSSES
from crosstok.harness.plan.suite import ModelSpec, Suite
from crosstok.tasks.collections import COLLECTIONS
from crosstok.tasks.registry import LM_EVAL_NAME, options_type, task_names
from crosstok.tasks.task import TaskOptions

DIALECT = "https://json-schema.org/draft/2020-12/schema"

SHORT_FORMS = {
    "tokens": {"type": "string", "pattern": "^(list|train_bpe|frequency):."},
    "k": {"type": "integer", "minimum": 1},
}
"""Short forms accepted for the record or the list of an option, by option name."""

Schema = dict[str, Any]


def suite_schema() -> Schema:
    """Return the JSON Schema (draft 2020-12) of a suite file, with every key described.

    Names of tasks, losses and initialisers are those of this installation, plug-ins included. Loads no torch.
    """
    schema = Suite.model_json_schema()
    parts = schema["$defs"]
    parts.pop("TaskSpec")
    schema["properties"]["tasks"]["items"] = {"anyOf": [_task_name(), {"$ref": "#/$defs/Task"}]}
    parts["Task"] = _task(parts)
    model = parts["ModelSpec"]
    for name, recipe in RECIPES.items():
        description = ModelSpec.model_fields[name].description
        model["properties"][name] = {"$ref": f"#/$defs/{recipe.__name__}", "description": description}
        parts[recipe.__name__] = _options(recipe, parts)
    model["oneOf"] = [{"required": [kind]} for kind in ("source", *RECIPES, "ensemble")]
    return {"$schema": DIALECT, **schema}


def _options(record: type[BaseModel], parts: Schema) -> Schema:
    """Return the schema of a record of options; what it refers to goes to ``parts``."""
    schema = record.model_json_schema(by_alias=True)
    parts |= schema.pop("$defs", {})
    for name, registry in (("loss", LOSSES), ("init", INITIALISERS)):
        if name in schema["properties"]:
            method = _method(registry.names(), registry.kind)
            described = {key: schema["properties"][name][key] for key in ("description", "default")}
            listed = {"type": "array", "items": method} if name == "loss" else method
            schema["properties"][name] = {**listed, **described}
    for name, short in SHORT_FORMS.items():
        if name in schema["properties"]:
            full = schema["properties"][name]
            described = {key: full.pop(key) for key in ("description", "default") if key in full}
            schema["properties"][name] = {"anyOf": [full, short], **described}
    return schema


def _method(names: Iterable[str], kind: str) -> Schema:
    """Return the schema of a loss or an initialiser: its name, or a mapping of its name and its options."""
    name = {"anyOf": [{"enum": list(names)}, {"type": "string", "pattern": ":"}]}
    described = {**name, "description": f"Name of the {kind}, or module:Class of your own."}
    return {"anyOf": [name, {"type": "object", "properties": {"name": described}, "required": ["name"]}]}


def _task_name() -> Schema:
    """Return the schema of a task's name: a known one, lm_eval:NAME, yaml:PATH or module:Class."""
    known = [name for name in task_names() if name != LM_EVAL_NAME]
    return {"anyOf": [{"enum": [*known, *COLLECTIONS]}, {"type": "string", "pattern": ".:."}]}


def _task(parts: Schema) -> Schema:
    """Return the schema of a task with options: which options there are depends on the benchmark."""
    name = {"type": "string", "description": "Name in the tables; names the benchmark too, unless `task` does."}
    task = {**_task_name(), "description": "Name of the benchmark, where it differs from `name`."}
    cases = [{"if": {"not": {"required": ["task"]}}, "then": {"properties": {"name": {**name, **_task_name()}}}}]
    for record, kinds in _by_options().items():
        options = _options(record, parts)["properties"]
        allowed = {"properties": {"name": name, "task": task, **options}, "additionalProperties": False}
        cases.append({"if": _is_one_of(kinds), "then": allowed})
    return {
        "type": "object",
        "description": "A benchmark with options; a collection passes its options on to each of its benchmarks.",
        "properties": {"name": name, "task": task},
        "required": ["name"],
        "allOf": cases,
    }


def _by_options() -> dict[type[TaskOptions], list[str]]:
    """Return the names of the tasks by the record of their options."""
    found: dict[type[TaskOptions], list[str]] = {}
    for name in task_names():
        found.setdefault(options_type(name), []).append(name)
    return found


def _is_one_of(kinds: list[str]) -> Schema:
    """Return the condition that a task is one of ``kinds``: by its key ``task``, or by ``name`` where it has none."""
    kind: Schema = {"enum": kinds}
    if LM_EVAL_NAME in kinds:
        kind = {"anyOf": [kind, {"pattern": "^lm_eval:"}]}
    by_task = {"properties": {"task": kind}, "required": ["task"]}
    by_name = {"properties": {"name": kind}, "required": ["name"], "not": {"required": ["task"]}}
    return {"anyOf": [by_task, by_name]}
