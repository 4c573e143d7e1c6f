"""Evaluation inside a training loop: the model in memory is measured after every few steps and left as it was.

python examples/training_loop.py [MODEL]
"""

import sys

import torch

import crosstok

TEXT = "def double(x):\n    return 2 * x\n"


def main(model: str) -> None:
    """Train for four steps and measure every second one."""
    checkpoint = crosstok.load(model)
    network, tokenizer = checkpoint.model, checkpoint.tokenizer
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    ids = torch.tensor([tokenizer(TEXT)["input_ids"]])
    network.train()
    for step in range(1, 5):
        loss = network(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % 2 == 0:
            result = crosstok.evaluate(
                network, tokenizer, ["text_bpb:source=stdlib,limit=2,passage_bytes=256"], name=f"step-{step}"
            )
            score = result.score()
            print(f"step {step}: {score.value:.4f} [{score.low:.4f}, {score.high:.4f}] {score.unit}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "wheel:smollm2-135m-instruct")
