"""Telling that memory ran out from every other failure, and giving back what the failed attempt held."""

import gc
from collections.abc import Callable
from typing import TypeVar

import torch

from crosstok.errors import UserError

Result = TypeVar("Result")

_MESSAGES = ("allocate memory", "out of memory", "not enough memory")


def is_out_of_memory(error: RuntimeError) -> bool:
    """Tell whether an allocator gave up; the CPU's raises a plain RuntimeError."""
    return isinstance(error, torch.OutOfMemoryError) or any(message in str(error) for message in _MESSAGES)


def attempt(work: Callable[[], Result]) -> Result | None:
    """Return what ``work`` returns, or None if memory ran out; its other errors pass through.

    The tensors of the failed attempt are free when this returns: while the error is being handled its traceback would
    still hold them.
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
    """Return the error for what does not fit into memory even by itself; ``remedy`` is what to do to the task."""
    return UserError(f"Memory ran out with {what}.", hint=f"Load the model as bfloat16 (--dtype), or {remedy}.")
