"""Regression gate: rules over contrasts, with a verdict that passes only if everything was measured.

A rule is ``TASK[.METRIC] (<|>) AMOUNT [& p<P]`` and describes a failure: ``humaneval.pass@1 < -1.0pp & p<0.05`` fails
if the pass rate of the model is more than one percentage point below the baseline and the difference is significant.
``AMOUNT`` is in percentage points (``pp``, fractions only), in percent of the baseline (``%``), or in the unit of the
metric. ``TASK`` may contain ``*``. Without rules, any significant loss fails; metrics other than fractions must also
change by at least one percent, because tiny differences become significant on long texts.
"""

import fnmatch
import json
import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from crosstok.errors import UserError, unknown_name
from crosstok.results.compare.contrast import Contrast, Side, contrast
from crosstok.results.tables.contrast_table import MDE_NOTE, outcome_text
from crosstok.results.tables.formats import render_layout
from crosstok.results.tables.number_format import amount
from crosstok.results.tables.table import Block, Entry, Layout

State = Literal["ok", "regression", "incomplete"]

_RULE = re.compile(
    r"""\s*(?P<task>[^\s<>&]+?)\s*
        (?P<sign>[<>])\s*
        (?P<amount>[+-]?\d+(?:\.\d+)?)\s*(?P<unit>pp|%|)\s*
        (?:&\s*p\s*<\s*(?P<p>0?\.\d+|1(?:\.0*)?)\s*)?""",
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class Rule:
    """A failure condition."""

    text: str
    task: str
    """``TASK`` or ``TASK.METRIC``; may contain ``*``."""
    below: bool
    """Whether changes below ``amount`` fail, rather than those above it."""
    amount: float
    unit: Literal["pp", "%", ""]
    p: float | None

    @classmethod
    def parse(cls, text: str) -> "Rule":
        """Parse a rule.

        Raises:
            UserError: it is not a valid rule.

        """
        found = _RULE.fullmatch(text)
        if not found:
            raise UserError(
                f"{text!r} is not a rule of the gate.", hint="Example: 'humaneval.pass@1 < -1.0pp & p<0.05'."
            )
        p = float(found["p"]) if found["p"] else None
        return cls(text.strip(), found["task"], found["sign"] == "<", float(found["amount"]), _unit(found["unit"]), p)

    def broken_by(self, one: Contrast) -> bool:
        """Return whether a contrast meets the failure condition.

        Raises:
            UserError: the rule counts percentage points and the metric is not a fraction.

        """
        found = one.difference
        if found is None or one.before is None or math.isnan(found.value):
            return False
        if self.unit == "pp" and not one.headline.is_fraction:
            raise UserError(
                f"The rule {self.text!r} is in percentage points, but {one.task} is in {one.headline.unit}.",
                hint="Use % or a plain number.",
            )
        if self.unit == "%":
            scale = abs(one.before.value) or math.ulp(0.0)  # any change from zero exceeds every percentage
            change = 100 * found.value / scale
        else:
            change = 100 * found.value if self.unit == "pp" else found.value
        beyond = change < self.amount if self.below else change > self.amount
        return beyond and (self.p is None or found.p < self.p)


def read_rules(path: Path) -> list[Rule]:
    """Read the rules of a YAML file with the key ``fail_if``.

    Raises:
        UserError: the file cannot be read or has other content.

    """
    import yaml  # most gates have no such file

    from crosstok.yaml_text import parse_yaml

    try:
        content = parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"The rules {path} cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid YAML.", hint="Write `fail_if:` and a list of rules.") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} contains no rules.", hint="Write `fail_if:` and a list of rules.")
    for key in content:
        if key != "fail_if":
            raise unknown_name(f"key in {path}", str(key), ["fail_if"])
    listed = content.get("fail_if")
    if not isinstance(listed, list) or not listed or not all(isinstance(rule, str) for rule in listed):
        raise UserError(f"{path}: fail_if is not a list of rules.", hint="Write each rule in quotes after a dash.")
    return [Rule.parse(rule) for rule in listed]


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of a rule on a task."""

    rule: str
    task: str
    model: str
    state: State
    message: str


@dataclass(frozen=True)
class GateReport:
    """Outcomes of a gate, with renderings for terminals, GitHub and test reporters."""

    candidate: str
    baseline: str
    outcomes: tuple[Outcome, ...]

    @property
    def exit_code(self) -> int:
        """Exit code: 0 ok, 1 regression, 3 incomplete; a regression takes precedence."""
        states = {outcome.state for outcome in self.outcomes}
        return 1 if "regression" in states else 3 if "incomplete" in states or not states else 0

    @property
    def headline(self) -> str:
        """Result in one line."""
        word = {0: "ok", 1: "REGRESSION", 3: "INCOMPLETE"}[self.exit_code]
        counts = {state: sum(outcome.state == state for outcome in self.outcomes) for state in _STATES}
        shown = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
        return f"Gate {word}: {self.candidate} against {self.baseline} ({shown or 'no rule applied'})"

    def text(self) -> str:
        """Return the report for a terminal or log."""
        lines = [f"  {o.state:<10} {o.task}: {o.message} [{o.rule}]" for o in self._worst()]
        return "\n".join([self.headline, *lines, *self._notes()])

    def markdown(self) -> str:
        """Return the report for ``$GITHUB_STEP_SUMMARY``."""
        rows = [[Entry(o.state), Entry(o.task), Entry(o.model), Entry(o.message), Entry(o.rule)] for o in self._worst()]
        header = ["state", "task", "model", "result", "rule"]
        block = Block("", header, rows, frozenset(range(5)))
        return render_layout(Layout(self.headline, [block] if rows else [], [], self._notes()), "md")

    def json(self) -> str:
        """Return the report as JSON."""
        content = {
            "candidate": self.candidate,
            "baseline": self.baseline,
            "exit_code": self.exit_code,
            "outcomes": [asdict(outcome) for outcome in self.outcomes],
        }
        return json.dumps(content, indent=2)

    def junit(self) -> str:
        """Return the report as JUnit XML: regressions are failures, incomplete results are errors."""
        count = {state: str(sum(outcome.state == state for outcome in self.outcomes)) for state in _STATES}
        totals = {"tests": str(len(self.outcomes)), "failures": count["regression"], "errors": count["incomplete"]}
        root = ET.Element("testsuites", dict(totals))
        suite = ET.SubElement(root, "testsuite", {"name": f"crosstok gate {_xml(self.candidate)}", **totals})
        for outcome in self.outcomes:
            name = _xml(f"{outcome.model}: {outcome.rule}")
            case = ET.SubElement(suite, "testcase", classname=_xml(outcome.task), name=name)
            if outcome.state != "ok":
                kind = "failure" if outcome.state == "regression" else "error"
                ET.SubElement(case, kind, message=_xml(outcome.message), type=outcome.state)
        ET.indent(root)
        return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"

    def _notes(self) -> list[str]:
        return [MDE_NOTE] if any("MDE" in outcome.message for outcome in self.outcomes) else []

    def _worst(self) -> list[Outcome]:
        return sorted(self.outcomes, key=lambda outcome: -_STATES.index(outcome.state))


_STATES: tuple[State, ...] = ("ok", "incomplete", "regression")


def gate(candidates: dict[str, Side], baselines: dict[str, Side], rules: Sequence[Rule] = ()) -> GateReport:
    """Compare models with baselines, paired by name; if each side has a single model, the names may differ.

    Results that a rule applies to but that cannot be judged (not measured, incomplete, sandbox errors, not comparable)
    are ``incomplete``, as are baseline models that the candidates lack.

    Raises:
        UserError: a rule matches no measured task.

    """
    single = len(candidates) == len(baselines) == 1
    pairs = list(zip(baselines.values(), candidates.values(), strict=True)) if single else [
        (baseline, candidates[name]) for name, baseline in baselines.items() if name in candidates
    ]  # fmt: skip
    outcomes = [
        Outcome("every model", "all tasks", name, "incomplete", "the candidate has no such model")
        for name in baselines
        if not single and name not in candidates
    ]
    found = contrast(pairs)
    if rules:
        outcomes += _by_rules(pairs, found, rules)
    else:
        outcomes += [_judged(one, _default(one)) for one in found]
    names = [", ".join(sorted({f"{s.run.id}/{s.name}" for s in group.values()})) for group in (candidates, baselines)]
    return GateReport(names[0], names[1], tuple(outcomes))


def _by_rules(pairs: list[tuple[Side, Side]], headlines: list[Contrast], rules: Sequence[Rule]) -> list[Outcome]:
    outcomes = []
    tasks = list(dict.fromkeys(one.task for one in headlines))
    for rule in rules:
        named = _applies_to(rule, tasks, headlines)
        found = headlines
        if any(named.values()):
            found = contrast(pairs, {task: metric for task, metric in named.items() if metric})
        outcomes += [_judged(one, rule) for one in found if one.task in named]
    return outcomes


def _applies_to(rule: Rule, tasks: list[str], headlines: list[Contrast]) -> dict[str, str | None]:
    """Return the tasks that a rule matches, with the metric if it names one (task names may contain dots)."""
    named: dict[str, str | None] = {}
    for task in tasks:
        if fnmatch.fnmatchcase(task, rule.task):
            named[task] = None
            continue
        one = next(one for one in headlines if one.task == task)
        side = one.model if task in one.model.cells else one.baseline
        for metric in (metric["name"] for metric in side.tasks[task].metrics):
            if fnmatch.fnmatchcase(f"{task}.{metric}", rule.task):
                named[task] = metric
    if not named:
        raise unknown_name(f"task in the rule {rule.text!r}:", rule.task, tasks)
    return named


def _default(one: Contrast) -> Rule:
    if one.headline.is_fraction:
        return Rule.parse("* < 0pp & p<0.05" if one.headline.higher_is_better else "* > 0pp & p<0.05")
    return Rule.parse("* < -1% & p<0.05" if one.headline.higher_is_better else "* > +1% & p<0.05")


def _judged(one: Contrast, rule: Rule) -> Outcome:
    state: State = "ok"
    message = one.outcome
    if one.difference and one.before and one.after:
        before, after = (amount(one.headline.unit, value) for value in (one.before.value, one.after.value))
        unit = "%" if one.headline.is_fraction else one.headline.unit
        message = f"{before} to {after} {unit}, p={one.difference.p:.2g}, {outcome_text(one)}"
    if rule.broken_by(one):
        state = "regression"
    elif one.incomplete or one.difference is None or math.isnan(one.difference.value):
        state = "incomplete"
    if one.incomplete:
        message = f"{message}; {one.incomplete}" if one.incomplete not in message else message
    return Outcome(rule.text, one.task, one.model.name, state, message)


def _unit(text: str) -> Literal["pp", "%", ""]:
    return "pp" if text == "pp" else "%" if text == "%" else ""


def _xml(text: str) -> str:
    """Return ``text`` with characters that XML does not allow replaced."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)
