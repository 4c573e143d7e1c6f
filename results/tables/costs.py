"""What a byte costs: floating point operations of a model per byte of text, whatever its tokenizer.

A token costs two operations per weight that it passes through, the output matrix apart because its size follows the
vocabulary, and four per layer and unit of width for every token in view (Kaplan et al., arXiv 2001.08361, section
2.1). A byte costs a token divided by the bytes per token of the same text, so a vocabulary that is twice as large pays
with its output matrix and is paid back in longer tokens, and a byte-level model pays for every byte. What is in view is
fixed in bytes, as everywhere: a context of the same text costs a byte-level model more tokens of attention.

Loading, the prompt, padding and the machine are left out; seconds tell of those.
"""

from collections.abc import Mapping

VIEW_BYTES = 1024
"""Bytes of context in view of each byte whose cost is stated."""


def flops_per_byte(compute: Mapping[str, int], bytes_per_token: float | None) -> float | None:
    """Return the forward operations per byte of text; None where the model or its tokens are not known.

    ``compute`` is ``Model.compute``: operations per token of the ``body`` and of the ``head``, and ``context``, those
    per token and token in view.
    """
    if not compute or not bytes_per_token:
        return None
    in_view = VIEW_BYTES / bytes_per_token
    return (compute["body"] + compute["head"] + compute["context"] * in_view) / bytes_per_token
