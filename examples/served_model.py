"""A model behind a server with an OpenAI-compatible interface: it answers prompts; texts have no likelihood.

transformers serve & python examples/served_model.py server:http://127.0.0.1:8000#MODEL
"""

import sys

import crosstok


def main(source: str) -> None:
    """Ask the server for answers to four problems and judge them in the sandbox."""
    result = crosstok.evaluate(source, tasks=["humaneval:limit=4,max_bytes=256"], prompt="chat")
    score = result.score("humaneval")
    print(f"{score.model}: {score.metric} {100 * score.value:.1f} % [{100 * score.low:.1f}, {100 * score.high:.1f}]")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/served_model.py server:URL#MODEL")
    main(sys.argv[1])
