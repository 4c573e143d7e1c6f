"""Requests of a cell, and those of its answers that the store still lacks, each with its own seed.

The seed of an answer is a hash of the run's seed, the benchmark, the document and the number of the answer. It does not
depend on batch, order, workers or the number of answers, so an interrupted run, or one that asks for more answers,
continues exactly where the other one stopped.

Every stored answer carries the hash of its request (``asked`` among its facts): prompt, stop strings, maximum length,
sampling parameters and seed. Rescoring uses it to find the answers of another cell that are valid for this one.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Generic, TypeVar

from crosstok.errors import UserError
from crosstok.fingerprint import fingerprint
from crosstok.harness.plan.planned import PlannedCell
from crosstok.tasks.sampling import sampling_of
from crosstok.tasks.task import Document, Generate, Request, Rolling

ASKED = "asked"
"""Fact under which the hash of the request is stored."""
_SEED_BITS = 31  # the range that every server accepts
R = TypeVar("R", bound=Request)


@dataclass(frozen=True, slots=True)
class DocumentRequests(Generic[R]):
    """A document of a cell and all of its requests, which are of one type."""

    document: Document
    requests: tuple[R, ...]

    @property
    def answers(self) -> int:
        """Number of answers to all requests."""
        return sum(len(one.seeds) if isinstance(one, Generate) else 1 for one in self.requests)


@dataclass(frozen=True, slots=True)
class PendingRequest:
    """A request for those answers of a document that the store lacks."""

    document: Document
    request: Generate
    """With one seed per missing answer."""
    indices: tuple[int, ...]
    """Numbers of these answers among all answers of the document."""


def cell_requests(cell: PlannedCell) -> list[DocumentRequests[Request]]:
    """Return the requests of every document of ``cell``, with sampling parameters and seeds.

    Raises:
        UserError: A document makes no request, or requests that its task does not declare.

    """
    return [DocumentRequests(document, _requests(cell, document)) for document in cell.documents]


def of_type(requests: Iterable[DocumentRequests[Request]], kind: type[R]) -> list[DocumentRequests[R]]:
    """Return the documents whose requests are of type ``kind``."""
    typed = ((one.document, tuple(each for each in one.requests if isinstance(each, kind))) for one in requests)
    return [DocumentRequests(document, own) for document, own in typed if own]


def pending_requests(
    requests: Iterable[DocumentRequests[Request]], done: Collection[tuple[str, int]] = ()
) -> list[PendingRequest]:
    """Return requests for all generated answers except the (document, index) in ``done``."""
    found = []
    for one in of_type(requests, Generate):
        first = 0
        for request in one.requests:
            places = [place for place in range(len(request.seeds)) if (one.document.id, first + place) not in done]
            if places:
                seeds = tuple(request.seeds[place] for place in places)
                indices = tuple(first + place for place in places)
                found.append(PendingRequest(one.document, replace(request, seeds=seeds), indices))
            first += len(request.seeds)
    return found


def seed_of(cell: PlannedCell, document: str, index: int) -> int:
    """Return the seed of answer ``index`` to ``document``."""
    parts = {"run": cell.model.seed, "task": cell.task.kind, "document": document, "sample": index}
    return int(fingerprint(parts), 16) % (1 << _SEED_BITS)


def asked(request: Generate, place: int = 0) -> str:
    """Return the hash of ``request`` with its seed number ``place`` alone."""
    return fingerprint({**asdict(request), "seeds": [request.seeds[place]]})


def asked_of(pending: Iterable[PendingRequest]) -> dict[tuple[str, int], str]:
    """Return the hash of the request for every missing answer, by document and index."""
    return {
        (one.document.id, index): asked(one.request, place)
        for one in pending
        for place, index in enumerate(one.indices)
    }


def _requests(cell: PlannedCell, document: Document) -> tuple[Request, ...]:
    """Return the requests of one document, checked."""
    task = cell.task
    made = tuple(task.requests(document, cell.model.style))
    undeclared = next((one for one in made if type(one) not in task.request_types), None)
    if undeclared is not None:
        declared = ", ".join(sorted(kind.__name__ for kind in task.request_types))
        raise UserError(
            f"The task {task.name!r} made a {type(undeclared).__name__} request but declares only {declared}.",
            hint="Correct its request_types, or extend another base class.",
        )
    kinds = {type(one) for one in made}
    if len(kinds) != 1 or (kinds == {Rolling} and len(made) > 1):
        raise UserError(
            f"Document {document.id} of the task {task.name!r} makes {len(made)} requests of {len(kinds)} types.",
            hint="A document makes one Rolling request, or one or more Generate or Continuations requests.",
        )
    return made if task.sampling_in_requests else tuple(_sampled(cell, document, made))


def _sampled(cell: PlannedCell, document: Document, requests: Iterable[Request]) -> Iterator[Request]:
    """Yield ``requests``; those for text with the sampling parameters of the task's options and a seed per answer."""
    options = sampling_of(cell.task)
    for number, request in enumerate(requests):
        if not isinstance(request, Generate):
            yield request
            continue
        indices = range(number * options.n, (number + 1) * options.n)
        seeds = tuple(0 if options.sampling.greedy else seed_of(cell, document.id, index) for index in indices)
        yield replace(request, sampling=options.sampling, seeds=seeds)
