"""A drop-in for the Hub's ``code_eval`` metric that runs programs in the sandbox (``sandbox/metrics/code_eval.py``).

evaluate.load(str(crosstok.sandbox.metrics.CODE_EVAL))           # from a local path, with the network off
with crosstok.sandbox.metrics.code_eval_is_sandboxed(): ...      # whoever loads "code_eval" in here gets this one
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CODE_EVAL = Path(__file__).with_name("code_eval.py")


@contextlib.contextmanager
def code_eval_is_sandboxed() -> Iterator[None]:
    """Give this metric to every caller of ``evaluate.load("code_eval")``, such as lm-eval's humaneval and mbpp tasks.

    These load it when their task is read, and keep it.
    """
    import evaluate  # noqa: PLC0415  (slow, and of no use to the sandbox itself)

    original = evaluate.load

    def load(path: str, *arguments: Any, **named: Any) -> Any:
        return original(str(CODE_EVAL) if path == "code_eval" else path, *arguments, **named)

    evaluate.load = load
    try:
        yield
    finally:
        evaluate.load = original
