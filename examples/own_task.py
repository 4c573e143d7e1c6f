"""A task of your own: programs that double a number, judged in the sandbox.

python examples/own_task.py [MODEL]
"""

import sys
from collections.abc import Sequence

import crosstok
from crosstok.sandbox.program import Program
from crosstok.tasks.task import CodeTask, DataSource, Document, Generate, Generated, Metric, PromptStyle


class Doubling(CodeTask):
    """A benchmark of one function."""

    version = "1"
    metrics = (Metric("pass@1", "fraction", higher_is_better=True),)

    def documents(self) -> Sequence[Document]:
        """Return the only problem."""
        return [Document("doubling/0", {"prompt": "def double(x):\n", "test": "assert double(4) == 8"})]

    def source(self) -> DataSource:
        """Return where the problem comes from."""
        return DataSource("package", "examples", "1", sha256="")

    def request(self, document: Document, style: PromptStyle) -> Generate:
        """Return the prompt with its stops and its budget in bytes."""
        return Generate(prompt=document.fields["prompt"], stops=("\ndef",), max_bytes=100)

    def program(self, document: Document, answer: Generated, style: PromptStyle) -> Program:
        """Return the program that judges an answer."""
        return Program(
            document.id, document.fields["prompt"] + answer.text, tests=document.fields["test"], entry_point="double"
        )

    def reference(self, document: Document) -> Program:
        """Return a correct program, which shows that the tests can pass here."""
        return self.program(document, Generated("    return 2 * x\n", "end"), "raw")


def main(model: str) -> None:
    """Measure a model on the task."""
    result = crosstok.evaluate(model, tasks=[Doubling])
    print(result.score("Doubling"))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "wheel:smollm2-135m-instruct")
