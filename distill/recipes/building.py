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

_READ, _READ_BYTES = 16, 512  # of held-out text, to see how new tokens are taken up


@dataclass(frozen=True)
class BuiltStudent:
    """A student in memory, and the fields of its ``Provenance`` that its recipe decides."""

    checkpoint: Checkpoint
    record: dict[str, Any]
    files: tuple[str, ...] = ()
    """Names of further files for the student, which the recipe has put into the working folder."""


@dataclass(frozen=True)
class BuildContext:
    """Where a student is made: its working folder, the text that it reads, the device."""

    folder: Path
    """Keeps the training log and the state from which an interrupted call continues."""
    texts: Texts | None
    """The training text; None where nothing is trained."""
    data: Path | None
    device: str
    progress: Advance | None
    parent: TokenBytes
    """The tokens of the model that the student is made from: rows of all others are new."""

    def held_out(self, corpus: str) -> list[str]:
        """Return the beginnings of a few documents that training does not see; none where nothing was trained."""
        if self.texts is None:
            return []
        documents = load_texts(corpus, "heldout", self.data).documents[:_READ]
        return [document.text.encode()[:_READ_BYTES].decode(errors="ignore") for document in documents]

    def train(
        self, student: Checkpoint, teacher: Checkpoint, losses: Sequence[Loss], spec: StudentSpec, **options: Any
    ) -> dict[str, dict[str, float]]:
        """Train the model of ``student`` in place, if there is text to train on; ``options`` are those of ``train``.

        Returns its figures on held-out text ``before`` and ``after``.
        """
        if self.texts is None:
            return {}
        encoders = Encoder(teacher.tokenbytes, teacher.bos_id), Encoder(student.tokenbytes, student.bos_id)
        windows = Windows(self.texts, *encoders, size=spec.window_bytes, seed=spec.seed, pack=spec.pack)
        sides = [
            Model(side.model, Reader.of(side.tokenbytes, side.valid_rows), side.fingerprint)
            for side in (student, teacher)
        ]
        teaches = any(loss.of_teacher for loss in losses)  # where it does not, its model may have become the student
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
