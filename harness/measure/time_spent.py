"""Wall time of a measurement, by what it was spent on."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TimeSpent:
    """Wall time of one session on a cell, in seconds."""

    generation: float = 0.0
    """Waiting for the model, to generate or to score; programs ran at the same time."""
    execution: float = 0.0
    """Waiting for programs alone, after the last answer."""
    rest: float = 0.0
    """Preparing requests and storing answers."""
    programs: float = 0.0
    """Total run time of all programs, at the same time as the model or not."""
    undecided: int = 0
    """Programs that the sandbox could not judge."""

    def __str__(self) -> str:
        parts = (
            f"generation {self.generation:.1f} s, waiting for programs {self.execution:.1f} s, rest {self.rest:.1f} s"
        )
        overlapped = max(self.programs - self.execution, 0.0)
        return f"{parts}; programs ran for {self.programs:.1f} s, {overlapped:.1f} s of it during generation"

    @property
    def parts(self) -> dict[str, float]:
        """Return the stored form, in seconds: the first three add up to the wall time, programs overlap with them."""
        return {
            "generation": self.generation,
            "execution": self.execution,
            "rest": self.rest,
            "programs": self.programs,
        }

    def __add__(self, other: "TimeSpent") -> "TimeSpent":
        sums = {name: getattr(self, name) + getattr(other, name) for name in (*self.parts, "undecided")}
        return TimeSpent(**sums)
