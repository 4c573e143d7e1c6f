"""Registry of tasks: built-in ones, plug-ins (entry points of ``crosstok.tasks``, ``module:Class``), and task files."""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from crosstok.errors import UserError, unknown_name
from crosstok.plugins import find_plugin, plugin_names, refuse_clash
from crosstok.tasks.choice.lm_eval_names import BORROWED, borrowed
from crosstok.tasks.sampling import SampledOptions
from crosstok.tasks.task import Task, TaskOptions

GROUP = "crosstok.tasks"
"""Entry points of tasks in other packages; a task can also be named ``module:Class``."""
YAML = "yaml:"
"""Prefix of the path of a task file, see :mod:`crosstok.tasks.declared`."""

LM_EVAL = (
    "crosstok.harness.lm_eval.task:LmEvalTask"  # it runs lm-eval's code, so it is in the harness; imported on demand
)
LM_EVAL_NAME = "lm_eval:NAME"
"""Entry of a listing for the tasks of lm-eval that have no short name here."""
LM_EVAL_OPTIONS = "crosstok.harness.lm_eval.options:LmEvalOptions"

# Import paths, so that a listing imports no benchmark.
BUILT_IN = {
    "humaneval": ("crosstok.tasks.code.humaneval:HumanEval", "164 Python functions, hidden tests"),
    "mbpp": (
        "crosstok.tasks.code.mbpp:MBPP",
        "974 short Python problems, 3-shot for base models; split: test is 11-510",
    ),
    "odex": ("crosstok.tasks.code.odex:ODEX", "439 requests from Stack Overflow over many libraries, English"),
    "classeval": ("crosstok.tasks.code.classeval:ClassEval", "100 Python classes, written from their skeleton"),
    "exercism": ("crosstok.tasks.code.exercism:Exercism", "140 practice exercises of the Python track"),
    "bigcodebench_hard": (
        "crosstok.tasks.code.bigcodebench:BigCodeBenchHard",
        "148 hard functions over many libraries",
    ),
    "humaneval_plus": (
        "crosstok.tasks.code.evalplus:HumanEvalPlus",
        "HumanEval with the extended tests of EvalPlus; from the hub",
    ),
    "mbpp_plus": (
        "crosstok.tasks.code.evalplus:MBPPPlus",
        "378 MBPP problems with the extended tests of EvalPlus; from the hub",
    ),
    "bigcodebench": (
        "crosstok.tasks.code.bigcodebench:BigCodeBench",
        "1140 functions over many libraries; from the hub",
    ),
    "quixbugs": ("crosstok.tasks.code.quixbugs:QuixBugs", "repair of 31 programs with one wrong line"),
    "humanevalpack": (
        "crosstok.tasks.code.humanevalpack:HumanEvalPack",
        "repair of 164 wrong HumanEval solutions (HumanEvalFix)",
    ),
    "cruxeval": ("crosstok.tasks.code.cruxeval:CRUXEval", "800 function calls, prediction of the value"),
    "gsm8k": ("crosstok.tasks.math.problems:GSM8K", "1319 grade-school word problems"),
    "svamp": ("crosstok.tasks.math.problems:SVAMP", "1000 one-step word problems"),
    "math": ("crosstok.tasks.math.problems:Math", "5000 competition problems"),
    "math500": ("crosstok.tasks.math.problems:Math500", "500 of the competition problems"),
    "wikitext": ("crosstok.tasks.text.wikitext:WikiText", "bits per byte of 62 Wikipedia articles, WikiText-2"),
    "text_bpb": ("crosstok.tasks.text.bits_per_byte:BitsPerByte", "bits per byte of any held-out text"),
}


def task_names() -> dict[str, str]:
    """Return every known task with a one-line description."""
    known = {name: about for name, (_, about) in BUILT_IN.items()}
    known |= {name: f"{entry.about} (lm-eval)" for name, entry in BORROWED.items()}
    known[LM_EVAL_NAME] = "any other benchmark of lm-eval's library"
    for name, package in plugin_names(GROUP).items():
        if name in known:
            refuse_clash("task", GROUP, name)
        known[name] = f"from {package}"
    return known


def build_task(kind: str, options: Mapping[str, Any], *, name: str | None = None, data: Path | None = None) -> Task:
    """Return the task ``kind`` with ``options``, under the name that a suite gives it.

    Raises ``UserError`` for an unknown task (with the closest name) and for options that the task does not have.
    """
    if kind.startswith(YAML):
        from crosstok.tasks.declared import declared_task  # for such tasks only

        return declared_task(kind, check_options(kind, options), name or kind, data)
    task_type = _task_type(LM_EVAL if borrowed(kind) else kind)
    task = task_type(name or kind, check_options(kind, options), data)
    task.kind = kind
    return task


def options_type(kind: str) -> type[TaskOptions]:
    """Return the options class of the task ``kind``, without importing torch for built-in tasks.

    Raises ``UserError`` for an unknown task, with the closest name.
    """
    if kind.startswith(YAML):
        return SampledOptions
    if kind in BUILT_IN or kind in BORROWED:
        refuse_clash("task", GROUP, kind)
    if borrowed(kind):
        module, _, attribute = LM_EVAL_OPTIONS.partition(":")
        found: type[TaskOptions] = getattr(import_module(module), attribute)
        return found
    return _task_type(kind).options_type


def check_options(kind: str, options: Mapping[str, Any]) -> TaskOptions:
    """Return the checked options of the task ``kind``.

    Raises ``UserError`` for an unknown task or option, with the closest name, and for an invalid value.
    """
    wanted = options_type(kind)
    try:
        return wanted.model_validate(dict(options))
    except ValidationError as error:
        problems = error.errors()  # a misspelt option is also missing under its right name; report it as unknown
        first = next((problem for problem in problems if problem["type"] == "extra_forbidden"), problems[0])
        where = ".".join(str(part) for part in first["loc"]) or "options"
        known = wanted.model_fields
        if first["type"] == "extra_forbidden":
            raise unknown_name(f"option of task {kind!r}:", where, known) from error
        problem = first["msg"].removeprefix("Value error, ")
        raise UserError(f"Task {kind!r}: {where}: {problem}.", hint=f"Options: {', '.join(known)}.") from error


def _task_type(kind: str) -> type[Task]:
    if kind in BUILT_IN or kind == LM_EVAL:
        module, _, attribute = (kind if kind == LM_EVAL else BUILT_IN[kind][0]).partition(":")
        found = getattr(import_module(module), attribute)
    else:
        found = find_plugin("task", GROUP, kind, task_names())
    if not (isinstance(found, type) and issubclass(found, Task)):
        raise UserError(f"Task {kind!r} is not a subclass of crosstok.Task.", hint="Name a class that is.")
    return found
