"""Context in which a recipe builds a student, and the record that it returns."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crosstok.corpora import Texts, load_texts
from crosstok.distill.inspection.snapshots import RowSnapshots
from crosstok.distill.losses import Loss, Reader
from crosstok.distill.models.checkpoints import Checkpoint
from crosstok.distill.recipes.options import StudentSpec
from crosstok.distill.tokenizers.tokenbytes import TokenBytes
from crosstok.distill.training.held_out import HeldOut
from crosstok.distill.training.loop import Model, train
from crosstok.distill.training.windows import Encoder, Windows
from crosstok.progress import Advance

_READ, _READ_BYTES = 16, 512  # held-out documents, and bytes of each, for the usage of new tokens


@dataclass(frozen=True)
class BuiltStudent:
    """A student in memory, and the provenance fields that its recipe sets."""

    checkpoint: Checkpoint
    record: dict[str, Any]
    files: tuple[str, ...] = ()
    """Names of further files in the working folder that belong to the student."""


@dataclass(frozen=True)
class BuildContext:
    """Working folder, training text and device of one build."""

    folder: Path
    """Working folder, with the training log and the state from which an interrupted call resumes."""
    texts: Texts | None
    """Training text; None if nothing is trained."""
    data: Path | None
    """Data folder."""
    device: str
    progress: Advance | None
    """Called after each training step."""
    parent: TokenBytes
    """Vocabulary of the source; all other tokens of the student are new."""

    def held_out(self, corpus: str) -> list[str]:
        """Return the first bytes of a few held-out documents; an empty list if nothing is trained."""
        if self.texts is None:
            return []
        documents = load_texts(corpus, "heldout", self.data).documents[:_READ]
        return [document.text.encode()[:_READ_BYTES].decode(errors="ignore") for document in documents]

    def train(
        self, student: Checkpoint, teacher: Checkpoint, losses: Sequence[Loss], spec: StudentSpec, **options: Any
    ) -> dict[str, dict[str, float]]:
        """Train the model of ``student`` in place; do nothing if there is no training text.

        ``options`` are passed on to :func:`crosstok.distill.training.loop.train`. Returns figures on held-out text
        ``before`` and ``after`` training.
        """
        if self.texts is None:
            return {}
        encoders = Encoder(teacher.tokenbytes, teacher.bos_id), Encoder(student.tokenbytes, student.bos_id)
        windows = Windows(self.texts, *encoders, size=spec.window_bytes, seed=spec.seed, pack=spec.pack)
        sides = [
            Model(side.model, Reader.of(side.tokenbytes, side.valid_rows), side.fingerprint)
            for side in (student, teacher)
        ]
        teaches = any(loss.of_teacher for loss in losses)  # otherwise the student may share the teacher's model
        held_out = HeldOut.of(spec.corpus, self.data, encoders, sides[1] if teaches else None)
        before = held_out.figures(sides[0])
        train(
            sides[0],
            sides[1],
            windows,
            losses,
            spec,
            folder=self.folder,
            device=self.device,
            progress=self.progress,
            watch=RowSnapshots.of(
                self.folder, student.tokenbytes, self.parent, steps=spec.steps, count=spec.row_snapshots
            ),
            **options,
        )
        sides[0].network.to("cpu")
        return {"before": before, "after": held_out.figures(sides[0])} if before else {}
