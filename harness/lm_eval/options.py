"""Options of the tasks of lm-eval's library; apart from the bridge, so that checking a suite loads no torch."""

from pydantic import Field

from crosstok.tasks.task import TaskOptions


class LmEvalOptions(TaskOptions):
    """Options of every benchmark of lm-eval's."""

    fewshot: int | None = Field(default=None, ge=0, description="Solved examples in front; default: the definition's.")
    pmi_context: str | None = Field(
        default="Answer:", description="Text behind which choices are scored by themselves for acc_pmi; null: never."
    )
    window_bytes: int = Field(default=2048, ge=64, description="Size of the sliding window over whole texts.")
    stride_bytes: int = Field(default=1024, ge=32, description="New bytes scored per window after the first.")
    revision: str = Field(default="", description="Hub commit to fetch the data at, where the catalogue pins none.")
