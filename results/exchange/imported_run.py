"""Imported results as a run of the store, which tables, comparisons and the gate read like any other run.

Verdicts of an imported run have the integrity ``none``, because how they were made is unknown; they are therefore not
comparable with those of crosstok. Answers without a verdict make the cell incomplete. Files without individual answers
cannot be imported, because an average allows neither an interval nor a paired test.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from crosstok.fingerprint import file_sha256, fingerprint
from crosstok.results.store.records import Cell, Model, Progress, Run, Sample, Score, Task, Verdict
from crosstok.results.store.store import Store

TIER = "imported"


class ImportedRun:
    """Writer of one imported file as a run with one model; importing the file again changes nothing."""

    def __init__(self, store: Store, path: Path, name: str) -> None:
        self.store = store
        self.name = name
        self.identity = fingerprint({"imported": file_sha256(path), "name": name})
        self.run = f"{name}-{self.identity[:8]}"
        self.status = Progress.COMPLETE
        config = {"name": name, "imported": path.name}
        store.begin_run(Run(id=self.run, suite=name, config=config, environment={}, status=Progress.RUNNING))
        store.put_model(
            Model(
                fingerprint=self.identity, label=f"imported from {path.name}", spec={}, tokenizer="", parameters=0,
                vocabulary=0, provenance={"imported": path.name, "sha256": file_sha256(path)}, build_s=0.0,
            )
        )  # fmt: skip

    def cell(  # noqa: PLR0917  (one call per kind of file)
        self,
        fingerprint_: str,
        task: str,
        version: str,
        metrics: Sequence[Mapping[str, Any]],
        documents: int,
        samples: Sequence[Sample],
        scores: Sequence[Score],
        verdicts: Sequence[Verdict],
        unjudged: int,
    ) -> None:
        """Write one task; ``unjudged`` is the number of answers without a verdict."""
        names = sorted(sample.document for sample in samples)
        record = Task(
            fingerprint=fingerprint({"imported": task, "version": version, "documents": names}), name=task,
            version=version, settings={}, source={"kind": TIER}, documents=documents,
            metrics=[dict(metric) for metric in metrics],
        )  # fmt: skip
        self.store.put_task(record)
        cell = Cell(
            fingerprint=fingerprint_, model=self.identity, task=record.fingerprint, seed=0, settings={},
            status=Progress.RUNNING,
        )  # fmt: skip
        self.store.begin_cell(cell, self.run, self.name)
        self.store.add_samples(samples, scores)
        self.store.add_verdicts(verdicts)
        status = Progress.PARTIAL if unjudged else Progress.COMPLETE
        self.store.end_cell(fingerprint_, status, f"{unjudged} answers without a verdict" if unjudged else "")
        self.status = status if unjudged else self.status

    def end(self) -> str:
        """End the run and return its id."""
        self.store.end_run(self.run, self.status)
        return self.run
