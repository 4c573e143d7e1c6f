"""Short names for common benchmarks of lm-eval's library, which ``crosstok.harness.lm_eval`` reads and measures.

Any other of its 14,000 definitions is available as ``lm_eval:NAME``. Prompts and metrics are lm-eval's own, so scores
are comparable with published ones.
"""

from typing import NamedTuple

PREFIX = "lm_eval:"


class Borrowed(NamedTuple):
    """A benchmark of lm-eval's library."""

    name: str
    """Its name in lm-eval."""
    folder: str
    """Folder of its definition, so that only this one is read."""
    about: str


BORROWED = {
    "lambada": Borrowed("lambada_openai", "lambada", "5153 passages, prediction of the last word"),
    "arc_easy": Borrowed("arc_easy", "arc", "2376 science questions"),
    "arc_challenge": Borrowed("arc_challenge", "arc", "1172 harder science questions"),
    "piqa": Borrowed("piqa", "piqa", "1838 questions about everyday physics"),
    "boolq": Borrowed("boolq", "super_glue/boolq", "3270 yes/no questions about a passage"),
    "hellaswag": Borrowed("hellaswag", "hellaswag", "10042 short scenes, choice of the continuation"),
    "winogrande": Borrowed("winogrande", "winogrande", "1267 sentences with a blank, two choices each"),
    "openbookqa": Borrowed("openbookqa", "openbookqa", "500 science questions"),
    "commonsense_qa": Borrowed("commonsense_qa", "commonsense_qa", "1221 common-sense questions"),
    "siqa": Borrowed("social_iqa", "siqa", "1954 questions about social situations"),
    "mmlu": Borrowed("mmlu", "mmlu/default", "14042 exam questions in 57 subjects; usually with fewshot=5"),
}


def borrowed(kind: str) -> Borrowed | None:
    """Return the benchmark of lm-eval that ``kind`` names; None if it names none."""
    if kind.startswith(PREFIX):
        name = kind.removeprefix(PREFIX)
        known = {entry.name: entry for entry in BORROWED.values()}
        return known.get(name) or Borrowed(name, "", "")
    return BORROWED.get(kind)
