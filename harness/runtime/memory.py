"""Handling of out-of-memory errors: detection, release of memory, and the message for users."""

import gc
from collections.abc import Callable
from typing import TypeVar

import torch

from crosstok.errors import UserError

Result = TypeVar("Result")

_MESSAGES = ("allocate memory", "out of memory", "not enough memory")


def is_out_of_memory(error: RuntimeError) -> bool:
    """Return whether ``error`` is an out-of-memory error; the CPU allocator raises a plain RuntimeError."""
    return isinstance(error, torch.OutOfMemoryError) or any(message in str(error) for message in _MESSAGES)


def attempt(work: Callable[[], Result]) -> Result | None:
    """Call ``work`` and return its result, or None if memory ran out; other errors are raised.

    The memory of a failed attempt is released outside of the ``except`` block, because the traceback refers to its
    tensors.
    """
    try:
        return work()
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None


def too_large(what: str, remedy: str) -> UserError:
    """Return the error for ``what``, which does not fit into memory even alone; ``remedy`` is a change of the task."""
    return UserError(f"Out of memory with {what}.", hint=f"Load the model in bfloat16 (--dtype), or {remedy}.")
