"""Models in memory, such as one in the middle of training: identity by content, and measuring in place.

A model in memory is named by the source ``memory:FINGERPRINT``. The fingerprint covers the bytes of every weight, the
configuration and the tokenizer, so a model after another optimiser step is another model, and no result of an earlier
step can be taken for its own.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from crosstok.distill.models.checkpoints import Checkpoint, check_rows
from crosstok.distill.models.weights import DTYPES
from crosstok.distill.sources.models import VOLATILE
from crosstok.distill.tokenizers.roles import Roles, adds_bos, generation_ends
from crosstok.distill.tokenizers.tokenbytes import TokenBytes
from crosstok.errors import UserError
from crosstok.fingerprint import fingerprint
from crosstok.model_source import ModelSource

_NOT_WEIGHTS = {*VOLATILE, "use_cache", "dtype", "torch_dtype"}
"""Settings that change without the model, or that the weights themselves tell."""


def checkpoint_in_memory(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> Checkpoint:
    """Return ``model`` and its tokenizer as a checkpoint, on the device and in the dtype that the model has.

    Reads every weight once to identify the model: about a second per gigabyte. The weights are not copied.

    Raises:
        UserError: the model is no ``PreTrainedModel`` (a wrapper of DDP, PEFT or ``torch.compile``), its weights are
            offloaded or of an unknown dtype, or the tokenizer is slow or has ids past the rows of the embedding matrix.

    """
    if not isinstance(model, PreTrainedModel):
        raise UserError(
            f"The model is a {type(model).__name__}, not a transformers.PreTrainedModel.",
            hint="Pass the model inside: model.module for DDP, model._orig_mod after torch.compile, "
            "model.get_base_model() for PEFT.",
        )
    if dtype_name(model) not in DTYPES:
        raise UserError(f"The model computes in {model.dtype}.", hint=f"Known: {', '.join(DTYPES)}.")
    tokenbytes = TokenBytes.from_tokenizer(tokenizer)
    name = model.config.name_or_path or type(model).__name__
    check_rows(tokenbytes, model, name)
    roles = Roles.from_tokenizer(tokenizer)
    bos = roles.bos if adds_bos(tokenizer, roles.bos) else None
    stops = roles.stop_ids | generation_ends(model, tokenbytes.size)
    identity = fingerprint(
        {
            "weights": weights_sha256(model),
            "config": _config(model),
            "tokenizer": tokenbytes.fingerprint,
            "template": str(tokenizer.chat_template or ""),
            "bos": bos,
            "stops": sorted(stops),
        }
    )
    source = str(ModelSource("memory", identity))
    return Checkpoint(
        model=model,
        tokenizer=tokenizer,
        tokenbytes=tokenbytes,
        roles=roles,
        source=source,
        folder=Path(source),
        fingerprint=identity,
        provenance={"kind": "source", "source": source, "source_fingerprint": identity},
        bos_id=bos,
        stop_ids=stops,
    )


def dtype_name(model: PreTrainedModel) -> str:
    """Return the name of the dtype that the model computes in, such as ``bfloat16``."""
    return str(model.dtype).removeprefix("torch.")


def weights_sha256(model: nn.Module) -> str:
    """Return the SHA-256 over name, dtype, shape and bytes of every weight and buffer; tied matrices are read once."""
    digest = hashlib.sha256()
    seen: dict[tuple[Any, ...], str] = {}
    # Buffers that are not saved count too: model.to(bfloat16) also rounds the rotary frequencies, which a model that is
    # loaded in bfloat16 keeps in float32.
    for name, weight in sorted({**dict(model.named_buffers()), **model.state_dict()}.items()):
        if not isinstance(weight, Tensor):
            continue
        if weight.device.type == "meta":
            raise UserError(f"The weight {name} is offloaded.", hint="Load the whole model into memory.")
        place = (str(weight.device), weight.data_ptr(), weight.dtype, weight.shape, weight.stride())
        known = seen.setdefault(place, name)
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)} {known}\n".encode())
        if known == name:
            digest.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


@contextmanager
def measured_in_place(model: PreTrainedModel) -> Iterator[None]:
    """Put ``model`` into evaluation mode for the block and leave everything as it was, also after an error.

    Restored are the mode of every module, buffers that a forward pass replaced, and the random state of the CPU and of
    the model's device. Autocast is off inside the block, so that numbers do not depend on the caller's mixed precision.
    Weights, gradients, device and dtype are never touched.
    """
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(module, dict(module._buffers)) for module in model.modules() if module._buffers]  # noqa: SLF001  (named_buffers leaves out which module holds them)
    kind = model.device.type
    with ExitStack() as opened:
        opened.enter_context(torch.random.fork_rng([model.device] if kind == "cuda" else []))
        opened.enter_context(torch.autocast(kind, enabled=False))
        model.train(mode=False)
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training
            for module, held in buffers:
                module._buffers.update(held)  # noqa: SLF001


def _config(model: PreTrainedModel) -> Any:
    content = {key: value for key, value in model.config.to_dict().items() if key not in _NOT_WEIGHTS}
    return json.loads(json.dumps(content, sort_keys=True, default=str))
