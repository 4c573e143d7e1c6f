"""Options of the tasks of lm-eval's library, in a file of their own so that checking a suite does not import torch."""

from pydantic import Field

from crosstok.tasks.task import TaskOptions


class LmEvalOptions(TaskOptions):
    """Options of every benchmark from lm-eval's library."""

    fewshot: int | None = Field(default=None, ge=0, description="Few-shot examples; default: the definition's.")
    pmi_context: str | None = Field(
        default="Answer:", description="Context of acc_pmi, without the question; null: no acc_pmi."
    )
    window_bytes: int = Field(default=2048, ge=64, description="Sliding window over whole texts, in bytes.")
    stride_bytes: int = Field(default=1024, ge=32, description="Bytes scored per window after the first.")
    revision: str = Field(default="", description="Hub commit to fetch the data at, where the catalogue pins none.")
