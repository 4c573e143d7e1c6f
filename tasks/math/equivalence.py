"""Equivalence of mathematical answers, by parsing and computer algebra (``math-verify``).

Computer algebra may not terminate on adversarial expressions, so each step is limited: by a timeout, which works in the
main thread only, and by the length of the text.
"""

import logging
import re
import threading

from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

_LONGEST = 20_000  # characters, from the end of the text, where the answer is
_SECONDS = 5
_NUMBER = re.compile(r"-?\$?\d[\d,]*(?:\.\d+)?")

for _name in ("math_verify", "math_verify.parser", "math_verify.grader", "latex2sympy2_extended"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)  # it warns about every answer that is not an expression


def same_answer(expected: str, answer: str) -> bool:
    """Return whether the last answer in the text ``answer`` equals the LaTeX or plain expression ``expected``.

    If the text has a LaTeX box, the last one holds the answer.
    """
    boxed = last_boxed(answer)
    seconds = _SECONDS if threading.current_thread() is threading.main_thread() else None
    gold = parse(
        f"\\boxed{{{expected}}}",
        extraction_config=[LatexExtractionConfig(), ExprExtractionConfig()],
        parsing_timeout=seconds,
    )
    found = parse(
        f"\\boxed{{{boxed}}}" if boxed else answer[-_LONGEST:],
        extraction_config=[LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()],
        parsing_timeout=seconds,
    )
    return bool(gold and found and verify(gold, found, timeout_seconds=seconds))


def last_number(text: str) -> str:
    """Return the last number in ``text`` without thousands separators; empty if there is none."""
    numbers = _NUMBER.findall(text)
    return numbers[-1].replace(",", "").replace("$", "") if numbers else ""


def last_boxed(text: str) -> str:
    """Return the content of the last LaTeX box in ``text``; empty if there is none."""
    start = max(text.rfind("\\boxed"), text.rfind("\\fbox"))
    if start < 0:
        return ""
    opening = text.find("{", start)
    if opening < 0 or text[start:opening].strip() not in ("\\boxed", "\\fbox"):
        words = text[start:].replace("$", " ").split()  # \boxed 5
        return words[1] if len(words) > 1 else ""
    depth = 0
    for index in range(opening, len(text)):
        depth += (text[index] == "{") - (text[index] == "}")
        if depth == 0:
            return text[opening + 1 : index]
    return ""
