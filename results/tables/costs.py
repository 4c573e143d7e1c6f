"""Compute cost of a model: floating-point operations per byte of text, comparable across tokenizers.

A token costs two operations per weight (the output matrix is counted separately, because its size depends on the
vocabulary) plus four per layer and unit of width for each token of context (Kaplan et al., arXiv 2001.08361, section
2.1). The cost of a byte is the cost of a token divided by the bytes per token of the same text: a larger vocabulary
costs more in the output matrix and less in the number of tokens, and a byte-level model pays for every byte. The
context is fixed in bytes, so a byte-level model attends to more tokens.

Loading, prompt processing, padding and hardware are not included; see the measured seconds for those.
"""

from collections.abc import Mapping

VIEW_BYTES = 1024
"""Length of the context in bytes."""


def flops_per_byte(compute: Mapping[str, int], bytes_per_token: float | None) -> float | None:
    """Return the forward operations per byte of text; None where they are unknown.

    Args:
        compute: ``Model.compute``: operations per token of ``body`` and ``head``, and ``context``, operations per token
            for each token of context.
        bytes_per_token: mean length of a token of the text, in bytes.

    """
    if not compute or not bytes_per_token:
        return None
    in_view = VIEW_BYTES / bytes_per_token
    return (compute["body"] + compute["head"] + compute["context"] * in_view) / bytes_per_token
