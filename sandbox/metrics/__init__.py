"""Drop-in replacement for the Hub's ``code_eval`` metric that runs programs in the sandbox.

evaluate.load(str(crosstok.sandbox.metrics.CODE_EVAL))         # from a local path, without network
with crosstok.sandbox.metrics.code_eval_is_sandboxed(): ...    # evaluate.load("code_eval") returns this metric
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CODE_EVAL = Path(__file__).with_name("code_eval.py")


@contextlib.contextmanager
def code_eval_is_sandboxed() -> Iterator[None]:
    """Make ``evaluate.load("code_eval")`` return this metric inside the block.

    lm-eval's humaneval and mbpp tasks load the metric when they are imported, and keep it.
    """
    import evaluate  # slow, and not needed by the sandbox itself

    original = evaluate.load

    def load(path: str, *arguments: Any, **named: Any) -> Any:
        return original(str(CODE_EVAL) if path == "code_eval" else path, *arguments, **named)

    evaluate.load = load
    try:
        yield
    finally:
        evaluate.load = original
