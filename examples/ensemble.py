"""An ensemble of two students that share a tokenizer, measured beside its members.

python examples/ensemble.py [MODEL]
"""

import sys

import crosstok


def main(model: str) -> None:
    """Make two students of byte tokens and their ensemble, and measure all three."""
    mean = crosstok.transfer(model, "students/mean", tokenizer="bytes", init="mean")
    fvt = crosstok.transfer(model, "students/fvt", tokenizer="bytes", init="fvt")
    pair = crosstok.ensemble([mean, fvt], "students/pair", combine="mean_prob", weights=[1, 2])
    for student in (mean, fvt, pair):
        score = crosstok.evaluate(student, tasks=["text_bpb:source=stdlib,limit=2,passage_bytes=256"]).score()
        print(f"{score.model}: {score.value:.4f} {score.unit}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "wheel:smollm2-135m-instruct")
