"""Short names for benchmarks of lm-eval's library, which ``crosstok.harness.lm_eval`` reads and measures.

Any other of its 14,000 definitions is named ``lm_eval:NAME``. The definitions stay lm-eval's: there is one way to
measure a benchmark, and it is the one whose numbers are published.
"""

from typing import NamedTuple

PREFIX = "lm_eval:"


class Borrowed(NamedTuple):
    """A benchmark of lm-eval's library."""

    name: str
    """What lm-eval calls it."""
    folder: str
    """Where its definition is, which spares reading all of them."""
    about: str


BORROWED = {
    "lambada": Borrowed("lambada_openai", "lambada", "5153 passages whose last word is to be predicted"),
    "arc_easy": Borrowed("arc_easy", "arc", "2376 science questions"),
    "arc_challenge": Borrowed("arc_challenge", "arc", "1172 science questions, the harder ones"),
    "piqa": Borrowed("piqa", "piqa", "1838 questions of everyday physics"),
    "boolq": Borrowed("boolq", "super_glue/boolq", "3270 yes-no questions about a passage"),
    "hellaswag": Borrowed("hellaswag", "hellaswag", "10042 stories to be continued"),
    "winogrande": Borrowed("winogrande", "winogrande", "1267 sentences with one word to be filled in"),
    "openbookqa": Borrowed("openbookqa", "openbookqa", "500 science questions"),
    "commonsense_qa": Borrowed("commonsense_qa", "commonsense_qa", "1221 questions of common sense"),
    "siqa": Borrowed("social_iqa", "siqa", "1954 questions about social situations"),
    "mmlu": Borrowed("mmlu", "mmlu/default", "14042 examination questions, 57 subjects; fewshot=5 is usual"),
}


def borrowed(kind: str) -> Borrowed | None:
    """Return what a suite means by ``kind``, None where it is no benchmark of lm-eval's."""
    if kind.startswith(PREFIX):
        name = kind.removeprefix(PREFIX)
        known = {entry.name: entry for entry in BORROWED.values()}
        return known.get(name) or Borrowed(name, "", "")
    return BORROWED.get(kind)
