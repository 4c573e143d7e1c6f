"""Inspection of a student against its parent; builds an ``Inspection``."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from crosstok.corpora import load_texts
from crosstok.distill.embeddings.fvt import weighted_sums
from crosstok.distill.ensemble import EnsembleForCausalLM
from crosstok.distill.inspection import geometry
from crosstok.distill.inspection.records import Inspection, Matrix, Moment, Movement, Neighbour, NewToken, Row, Trace
from crosstok.distill.inspection.snapshots import read_snapshots
from crosstok.distill.inspection.tokens import (
    VocabularyComparison,
    compare_vocabularies,
    evenly_spaced,
    printable,
    spellings,
)
from crosstok.distill.inspection.tracing import Occurrence, Tracer, occurrences
from crosstok.distill.models import checkpoints, provenance
from crosstok.distill.models.checkpoints import Checkpoint
from crosstok.distill.models.lora import embedding_matrices
from crosstok.errors import UserError
from crosstok.model_source import ModelSource
from crosstok.progress import Advance

_OLD_PLACES = 1500
"""Number of old rows in the projection."""
_NEAREST = 8
_PATHS = 12
"""Number of tokens whose path is drawn."""


def inspect(
    source: str | Path,
    against: str | Path | None = None,
    *,
    count: int = 400,
    traces: int = 6,
    tokens: Sequence[str] = (),
    corpus: str | None = None,
    data: Path | None = None,
    progress: Advance | None = None,
) -> Inspection:
    """Compare the new tokens of a student with their old spelling in the model it was derived from.

    Args:
        source: The student.
        against: The parent; default: the model in the student's provenance.
        count: Number of new tokens to examine individually.
        traces: Number of new tokens to trace across layers, the most frequent ones in ``corpus``.
        tokens: Texts of further new tokens to trace.
        corpus: Text source whose held-out split is searched; default: the student's training corpus.
        data: The data folder.
        progress: Called with the share of the work done since the last call and the next stage.

    Raises:
        UserError: If the student is an ensemble or has no new tokens; if the parent is unknown, has changed or has
            another width; if one of ``tokens`` is not a new token.
    """
    tell = progress or (lambda _, __: None)
    folder = checkpoints.fetch(source)
    record = provenance.read(folder)
    parent_source = against or _parent_of(source, record)
    notes = list(_parent_mismatch(source, record, parent_source, named=against is not None))
    tell(0.0, "reading both models")
    student, parent = checkpoints.load(source), checkpoints.load(parent_source)
    comparison = _Comparison(student, parent, count)
    wanted = [comparison.find(text) for text in tokens]
    tell(0.3, "rows")
    matrices = [comparison.matrix(number) for number in range(len(comparison.kinds))]
    tell(0.3, "movement")
    snapshots = read_snapshots(folder)
    movement = comparison.movement(snapshots)
    if not snapshots:
        notes.append(
            "The movement of rows is not available: this student has no row snapshots. Students trained with "
            "row_snapshots > 0 (the default) have them; the rows of a student that was only initialised did not move."
        )
    tell(0.1, "layers")
    name = corpus or (record.data[0]["name"] if record and record.data else "stdlib")
    traced: list[Trace] = []
    tracer = Tracer(student, parent, comparison.vocabulary)
    if not tracer.fits:
        notes.append("Layers are not traced: the final norm or the output head of this architecture is unknown.")
    elif traces or wanted:
        found = occurrences(load_texts(name, "heldout", data), student.tokenbytes, frozenset(comparison.vocabulary.new))
        for token in dict.fromkeys([*wanted, *[token for token in found if comparison.pieces[token]][:traces]]):
            context = found.get(token, Occurrence(0, "")).context
            traced.append(tracer.trace(token, comparison.pieces[token], context))
        if not found:
            notes.append(f"No new token occurs in the held-out split of {name}, so none was traced in context.")
    tell(0.3, "done")
    return Inspection(
        model=str(source),
        fingerprint=student.fingerprint,
        parent=str(parent_source),
        parent_fingerprint=parent.fingerprint,
        provenance=student.provenance,
        new_tokens=len(comparison.vocabulary.new),
        old_tokens=len(comparison.vocabulary.old),
        examined=len(comparison.examined),
        matrices=matrices,
        tokens=comparison.tokens(),
        movement=movement,
        traces=traced,
        corpus=name,
        notes=notes,
    )


def _parent_of(source: str | Path, record: provenance.Provenance | None) -> str:
    if record is None or record.kind != "student":
        raise UserError(
            f"The parent of {source} is unknown: it has no student provenance.",
            hint="Name the parent, e.g. --against hub:owner/name.",
        )
    if ModelSource.recognise(record.source) is None:
        raise UserError(
            f"{source} was derived from a local folder named {record.source!r}; provenance records no local paths.",
            hint="Name the folder: --against FOLDER.",
        )
    return record.source


def _parent_mismatch(
    source: str | Path, record: provenance.Provenance | None, parent: str | Path, *, named: bool
) -> Iterator[str]:
    """Yield a note if the content of ``parent`` is not what ``source`` was derived from.

    Raises UserError if the parent was not given explicitly (``named``) but found in the provenance: a model that has
    changed would be mistaken for the one that the new rows started from.
    """
    made_from = {record.source_fingerprint, record.root_fingerprint} - {""} if record else set()
    if not made_from or record is None or record.kind != "student":
        return
    found = checkpoints.identify(parent)
    if found in made_from:
        return
    was = record.root_fingerprint or record.source_fingerprint
    if not named:
        raise UserError(
            f"{parent} has changed since {source} was derived from it: its fingerprint was {was} and is now {found}.",
            hint=f"Restore it, or compare with its current version: --against {parent}.",
        )
    yield (
        f"{parent} is not the model that this student was derived from, or has changed since (fingerprint {found}, "
        f"expected {was}): figures of old rows, constituents and layers refer to a different model."
    )


class _Comparison:
    """The two models with everything derived from both."""

    def __init__(self, student: Checkpoint, parent: Checkpoint, count: int) -> None:
        for side in (student, parent):
            if isinstance(side.model, EnsembleForCausalLM):
                raise UserError(f"{side.source} is an ensemble and has no embedding rows.", hint="Inspect its members.")
        self.student, self.parent = student, parent
        self.vocabulary: VocabularyComparison = compare_vocabularies(student.tokenbytes, parent.tokenbytes)
        if not self.vocabulary.new:
            raise UserError(
                f"{student.source} has no new tokens: each of its tokens is also one of {parent.source}.",
                hint="Inspect an expanded or transferred student, or name another parent with --against.",
            )
        ours = [matrix.detach() for matrix in embedding_matrices(student.model)]
        theirs = [matrix.detach() for matrix in embedding_matrices(parent.model)]
        theirs += theirs[: len(ours) - len(theirs)]  # an untied student of a tied parent
        if not self.vocabulary.old or ours[0].shape[1] != theirs[0].shape[1]:
            widths = ours[0].shape[1], theirs[0].shape[1]
            raise UserError(
                f"{student.source} and {parent.source} cannot be compared: they have rows of {widths[0]} and "
                f"{widths[1]} numbers, and {len(self.vocabulary.old)} tokens in common.",
                hint="Name the parent with --against.",
            )
        self.kinds = ("input", "output") if len(ours) == 2 else ("both",)
        self._new = [matrix[self.vocabulary.new].float() for matrix in ours]
        self._old = [matrix[self.vocabulary.old].float() for matrix in ours]
        self._moved = [
            float((matrix[self.vocabulary.old] != other[self.vocabulary.old_in_parent]).any(dim=1).float().mean())
            for matrix, other in zip(ours, theirs, strict=False)
        ]
        self.pieces = dict(
            zip(
                self.vocabulary.new,
                spellings(parent.tokenbytes, student.tokenbytes, self.vocabulary.new),
                strict=True,
            )
        )
        place = {there: index for index, there in enumerate(self.vocabulary.old_in_parent)}
        self._parts = {
            token: [place[piece] for piece in pieces if piece in place] for token, pieces in self.pieces.items()
        }
        # By the parent's ids: a token that the student has too as it is there now, any other as it is in the parent.
        self._reference = []
        for old, other in zip(self._old, theirs, strict=False):
            rows = other.float().clone()
            rows[self.vocabulary.old_in_parent] = old
            self._reference.append(rows)
        self.examined = evenly_spaced(self.vocabulary.new, count)
        self._row_of = {token: index for index, token in enumerate(self.vocabulary.new)}
        self._axes = [geometry.Axes(old) for old in self._old]
        self._rows: list[dict[int, Row]] = []

    def find(self, text: str) -> int:
        """Return the new token whose text is ``text``."""
        token = self.student.tokenbytes.id_of(text.encode())
        if token is None or token not in self._row_of:
            what = "is not a token of" if token is None else "is an old token of"
            raise UserError(
                f"{text!r} {what} {self.student.source}.",
                hint="Leading spaces matter; tokens.csv of the report lists the new tokens.",
            )
        if not self.pieces[token]:
            raise UserError(f"{self.parent.source} cannot spell {text!r}.", hint="Choose another token.")
        return token

    def matrix(self, number: int) -> Matrix:
        """Return the figures of one matrix, and store those of the examined tokens."""
        new, old, axes = self._new[number], self._old[number], self._axes[number]
        means = self._constituents(number, self.vocabulary.new)
        centre = old.mean(dim=0)
        rows = self._examined_rows(number, means, centre)
        self._rows.append(rows)
        matched = torch.randperm(len(old), generator=torch.Generator().manual_seed(0))[: len(new)]
        sample = evenly_spaced(list(range(len(old))), _OLD_PLACES)
        whole_new, whole_old = geometry.group(new), geometry.group(old)
        directions = geometry.unit(new).double().mean(dim=0) @ geometry.unit(old).double().mean(dim=0)
        with_parts = [row for token, row in rows.items() if self.pieces[token]]
        return Matrix(
            kind=self.kinds[number],
            width=new.shape[1],
            new=whole_new,
            old=whole_old,
            matched_rank=geometry.effective_rank(old[matched]),
            norm_ratio=_ratio(whole_new.norms.median, whole_old.norms.median),
            to_constituents=geometry.spread(geometry.cosine(new, means)),
            to_centre=geometry.spread(geometry.cosine(new, centre[None])),
            between=float(directions),
            nearest_is_part=_mean([bool(row.neighbours and row.neighbours[0].part) for row in with_parts]),
            part_rank=geometry.spread([row.part_rank for row in with_parts]).median,
            old_moved=self._moved[number],
            axes=axes.shares,
            old_places=axes.places(old[sample]),
        )

    def _constituents(self, number: int, tokens: Sequence[int]) -> Tensor:
        """Return the mean row of each token's old spelling, NaN without one."""
        pieces = [self.pieces[token] for token in tokens]
        means = weighted_sums(
            self._reference[number], pieces, [[1 / max(1, len(found))] * len(found) for found in pieces]
        )
        means[[not found for found in pieces]] = math.nan
        return means

    def _examined_rows(self, number: int, means: Tensor, centre: Tensor) -> dict[int, Row]:
        places = torch.tensor([self._row_of[token] for token in self.examined])
        new, old = self._new[number][places], self._old[number]
        to_parts, to_centre = geometry.cosine(new, means[places]).tolist(), geometry.cosine(new, centre[None]).tolist()
        on_axes = self._axes[number].places(new)
        found = {}
        near = geometry.neighbours(new, old, _NEAREST)
        for index, (token, (cosines, values, nearest)) in enumerate(zip(self.examined, near, strict=True)):
            parts = self._reference[number][self.pieces[token]]
            rank = None
            if len(parts):
                best = geometry.cosine(new[index].expand_as(parts), parts).max()
                rank = 1 + int((cosines > best + 1e-6).sum())
            found[token] = Row(
                norm=float(new[index].norm()),
                to_constituents=None if to_parts[index] != to_parts[index] else to_parts[index],
                to_centre=to_centre[index],
                part_rank=rank,
                place=on_axes[index],
                neighbours=[
                    Neighbour(
                        id=self.vocabulary.old[there],
                        text=printable(self.student.tokenbytes.table[self.vocabulary.old[there]]),
                        cosine=value,
                        part=there in self._parts[token],
                    )
                    for value, there in zip(values.tolist(), nearest.tolist(), strict=True)
                ],
            )
        return found

    def tokens(self) -> list[NewToken]:
        """Return the examined tokens; requires :meth:`matrix` to have been called."""
        tables = self.student.tokenbytes.table, self.parent.tokenbytes.table
        return [
            NewToken(
                id=token,
                text=printable(tables[0][token]),
                pieces=[printable(tables[1][piece]) for piece in self.pieces[token]],
                rows={kind: rows[token] for kind, rows in zip(self.kinds, self._rows, strict=True)},
            )
            for token in self.examined
        ]

    def movement(self, snapshots: Sequence[tuple[int, dict[str, Tensor]]]) -> list[Movement]:
        """Return the movement of rows during training, one record per matrix."""
        if not snapshots:
            return []
        ids = snapshots[0][1]["ids"].tolist()
        known = [place for place, token in enumerate(ids) if token in self._row_of]
        tokens = [ids[place] for place in known]
        drawn = evenly_spaced(list(range(len(tokens))), _PATHS)
        found = []
        for number, kind in enumerate(self.kinds):
            name = "output" if kind == "output" else "input"
            moments = [(step, kept[name][known]) for step, kept in snapshots if name in kept]
            if not moments or not known:
                continue
            means, start = self._constituents(number, tokens), moments[0][1]
            places = [self._axes[number].places(rows[drawn]) for _, rows in moments]
            found.append(
                Movement(
                    kind=kind,
                    moments=[
                        Moment(
                            step=step,
                            distance=geometry.spread((rows - start).norm(dim=1) / start.norm(dim=1).clamp(min=1e-12)),
                            to_start=geometry.spread(geometry.cosine(rows, start)),
                            to_constituents=geometry.spread(geometry.cosine(rows, means)),
                            norms=geometry.spread(rows.norm(dim=1)),
                        )
                        for step, rows in moments
                    ],
                    paths={
                        printable(self.student.tokenbytes.table[tokens[token]]): [moment[index] for moment in places]
                        for index, token in enumerate(drawn)
                    },
                )
            )
        return found


def _ratio(above: float | None, below: float | None) -> float | None:
    return above / below if above is not None and below else None


def _mean(values: Sequence[bool]) -> float | None:
    return sum(values) / len(values) if values else None
