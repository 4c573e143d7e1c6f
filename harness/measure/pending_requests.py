"""What is still to be asked of a model: for each document the answers that the store lacks, each with its own seed.

The seed of an answer is a hash of the run's seed, the benchmark, the document and the answer's number. It does not
depend on batch, order, workers or the number of answers, so an interrupted run, or one that asks for more answers, goes
on exactly where the other one was.

Every stored answer carries the hash of what was asked (``asked`` among its facts): prompt, stops, room, sampling and
seed. That is what tells whether an answer that another cell holds is an answer to this question.
"""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace

from crosstok.errors import UserError
from crosstok.fingerprint import fingerprint
from crosstok.harness.plan.planned import PlannedCell
from crosstok.tasks.sampling import sampling_of
from crosstok.tasks.task import AnswerTask, CodeTask, Document, Generate

ASKED = "asked"
EXCLUDED = "excluded"
"""Stop reason of a document that is not asked because this host cannot judge it."""
_SEED_BITS = 31  # what every server of models takes


@dataclass(frozen=True, slots=True)
class PendingRequest:
    """One document and those of its answers that are wanted."""

    document: Document
    request: Generate
    """With one seed per wanted answer."""
    indices: tuple[int, ...]
    """The numbers of these answers."""


def pending_requests(cell: PlannedCell, done: Collection[tuple[str, int]] = ()) -> list[PendingRequest]:
    """Return what is asked of the model for ``cell``, but for the (document, index) that are ``done``."""
    found = []
    options = sampling_of(cell.task)
    for document in cell.documents:
        indices = tuple(index for index in range(options.n) if (document.id, index) not in done)
        if indices:
            seeds = tuple(0 if options.sampling.greedy else seed_of(cell, document.id, index) for index in indices)
            request = replace(_request(cell, document), sampling=options.sampling, seeds=seeds)
            found.append(PendingRequest(document, request, indices))
    return found


def seed_of(cell: PlannedCell, document: str, index: int) -> int:
    """Return the seed of answer ``index`` to ``document``."""
    parts = {"run": cell.model.seed, "task": cell.task.kind, "document": document, "sample": index}
    return int(fingerprint(parts), 16) % (1 << _SEED_BITS)


def asked(request: Generate, place: int = 0) -> str:
    """Return the hash of what was asked for the answer to seed number ``place`` of ``request``."""
    return fingerprint({**asdict(request), "seeds": [request.seeds[place]]})


def asked_of(pending: Sequence[PendingRequest]) -> dict[tuple[str, int], str]:
    """Return the hash of every wanted answer, by document and index."""
    return {
        (one.document.id, index): asked(one.request, place)
        for one in pending
        for place, index in enumerate(one.indices)
    }


def _request(cell: PlannedCell, document: Document) -> Generate:
    if not isinstance(cell.task, CodeTask | AnswerTask):
        raise TypeError(f"{cell.task.name!r} asks for no answers")
    request = cell.task.request(document, cell.model.style)
    if not isinstance(request, Generate):
        raise UserError(f"The task {cell.task.name!r} may only ask for Generate, not {type(request).__name__}.")
    return request
