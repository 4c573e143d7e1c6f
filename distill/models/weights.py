"""Loading of causal language models from Hugging Face folders, with silent failures turned into errors.

transformers initialises missing weights randomly and only logs it, and it trusts the configuration about tied
embeddings. Here, missing or misshapen weights are errors, and tying is verified by memory address: configuration, files
and the loaded model must agree. Otherwise saving and reloading would change the model, as other programs drop one of
the matrices if the configuration says so.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging as transformers_logging

from crosstok.errors import CrosstokError, UserError, unknown_name

log = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

_PROBED = 8
"""Tokens of the sequences that show whether a model is causal."""
_ROUNDING = 5e-4
"""Largest change of earlier logits by rounding in fp32, as a share of the change of the last logits."""
_ROUNDING_LOW_PRECISION = 5e-2
"""The same in bfloat16 and float16."""


def torch_dtype(name: str) -> torch.dtype:
    """Return the type called ``name``. Raises UserError for an unknown one."""
    if name not in DTYPES:
        raise unknown_name("dtype", name, DTYPES)
    return DTYPES[name]


def load_model(folder: Path, dtype: torch.dtype | str, device: str | torch.device = "cpu") -> PreTrainedModel:
    """Load the model in ``folder`` in eval mode, in ``dtype`` or, with ``auto``, in the stored type.

    Raises UserError if its files are not one complete model.
    """
    loaded: Any
    try:
        with no_progress_bar():
            loaded = AutoModelForCausalLM.from_pretrained(
                folder, dtype=dtype, local_files_only=True, output_loading_info=True, trust_remote_code=False
            )
    except CrosstokError:
        raise
    except Exception as error:  # the code of any architecture or quantisation library runs here
        raise UserError(f"{folder} cannot be loaded: {_first_line(error)}", hint="Check the folder.") from error
    model: PreTrainedModel
    model, report = loaded
    if lost := sorted({*report.get("missing_keys", ()), *(key for key, *_ in report.get("mismatched_keys", ()))}):
        raise UserError(
            f"The weights in {folder} are missing or have other shapes than in config.json: {_some(lost)}.",
            hint="Download or save the model again.",
        )
    if unused := sorted(report.get("unexpected_keys", ())):
        log.warning("%s holds weights that %s does not use: %s", folder, type(model).__name__, _some(unused))
    _check_tie(model, folder)
    model.to(torch.device(device))  # type: ignore[arg-type]  # transformers annotates the decorated method wrongly
    model.train(mode=False)
    if output_weight(model) is not None:  # the members of an ensemble were checked when they were loaded
        _check_causal(model, folder)
    return model


def input_weight(model: PreTrainedModel) -> nn.Parameter:
    """Return the input embedding matrix, ``[rows, width]``."""
    embedding: Any = model.get_input_embeddings()
    weight: nn.Parameter = embedding.weight
    return weight


def output_weight(model: PreTrainedModel) -> nn.Parameter | None:
    """Return the output matrix, ``[rows, width]``; None for a model without one (an ensemble)."""
    head = _head(model)
    return None if head is None else head.weight


def rows(model: PreTrainedModel) -> int:
    """Return the number of ids that the model accepts; an ensemble may accept more than its members."""
    return int(model.config.vocab_size) if output_weight(model) is None else input_weight(model).shape[0]


def is_tied(model: PreTrainedModel) -> bool:
    """Return whether the input and output embeddings share memory."""
    weight = output_weight(model)
    return weight is not None and weight.data_ptr() == input_weight(model).data_ptr()


def _head(model: PreTrainedModel) -> Any:
    return model.get_output_embeddings()  # type: ignore[no-untyped-call]  # transformers leaves it untyped


def _check_tie(model: PreTrainedModel, folder: Path) -> None:
    weight = output_weight(model)
    if weight is None:
        return
    wanted = bool(model.config.get_text_config().tie_word_embeddings)
    if wanted == is_tied(model):
        return
    embedding = input_weight(model)
    if wanted and weight.shape == embedding.shape and torch.equal(weight, embedding):
        _head(model).weight = embedding
        return
    raise UserError(
        f"{folder} is inconsistent: config.json has tie_word_embeddings={str(wanted).lower()}, "
        f"but the files hold {'two different matrices' if wanted else 'a single matrix'}.",
        hint=f"Set tie_word_embeddings to {str(not wanted).lower()} in its config.json.",
    )


@torch.inference_mode()
def _check_causal(model: PreTrainedModel, folder: Path) -> None:
    """Raise UserError if the logits of earlier positions depend on the last token.

    Two sequences that differ in their last token run as one batch. In a causal model their earlier logits are equal up
    to rounding. The bounds are relative to the change at the last position, and every earlier position has to exceed
    them: in low precision, rounding can send single tokens to other experts.
    """
    size = rows(model)
    ids = torch.arange(_PROBED, device=model.device) * size // _PROBED
    pair = torch.stack([ids, ids])
    pair[1, -1] = ids[0]
    logits = model(input_ids=pair, use_cache=False).logits.float()
    change = (logits[0] - logits[1]).abs().amax(dim=-1)
    bound = _ROUNDING if model.dtype is torch.float32 else _ROUNDING_LOW_PRECISION
    if bool((change[:-1] > bound * change[-1]).all()):
        raise UserError(
            f"{folder} is not a causal model: the logits of earlier positions change with the last token.",
            hint="Use a causal language model (is_decoder: true for BERT, use_bidirectional_attention: false for "
            "Gemma 3).",
        )


@contextmanager
def no_progress_bar() -> Iterator[None]:
    """Disable transformers' progress bar, which would only flash up."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # untyped there
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]  # untyped there


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _first_line(error: Exception) -> str:
    """Return the first line of the message; the text of a KeyError is only a key, so its type comes first."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    # A line that ends with a colon announces the reason: dataclass validation gives it on the next line.
    text = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    return (f"{type(error).__name__}: {text}" if isinstance(error, LookupError | AssertionError) else text)[:300]
