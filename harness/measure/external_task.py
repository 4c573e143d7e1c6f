"""Benchmarks that are asked and judged by code of another program's, on our engine."""

from abc import abstractmethod

from crosstok.harness.measure.engines import Engine
from crosstok.harness.plan.planned import PlannedCell
from crosstok.progress import Advance
from crosstok.results.store.store import Store
from crosstok.tasks.task import Task


class ForeignTask(Task):
    """A task that conducts its own measurement; what it may use is the engine, and it stores each document at once."""

    @abstractmethod
    def measure(self, cell: PlannedCell, engine: Engine, store: Store, advance: Advance) -> None:
        """Ask and judge every document of ``cell`` that the store lacks."""
