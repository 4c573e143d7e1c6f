"""Initial estimates of time, in seconds on two CPU cores; progress corrects them by the speed that it observes."""

from crosstok.harness.plan.planned import PlannedCell, PlannedModel
from crosstok.tasks.sampling import sampling_of
from crosstok.tasks.task import Continuations, Generate, Rolling

PER_ANSWER = 2.0
PER_CHOICE_QUESTION = 0.1
PER_KILOBYTE = 0.9
PER_REFERENCE = 0.05
PER_STUDENT = 5.0
PER_TRAINING_STEP = 5.0


def seconds_to_make(model: PlannedModel) -> float:
    """Return an estimate of the seconds to make a student or an ensemble; 0 for a source."""
    if model.spec.source is not None:
        return 0.0
    return PER_STUDENT + PER_TRAINING_STEP * (model.recipe.steps if model.recipe else 0)


def seconds_to_measure(cell: PlannedCell) -> float:
    """Return an estimate of the seconds to measure a whole cell; an ensemble costs as much as its members."""
    documents, kinds = cell.documents, cell.task.request_types
    seconds = 0.0
    if Generate in kinds:
        seconds += PER_ANSWER * len(documents) * sampling_of(cell.task).n
    if Continuations in kinds:
        seconds += PER_CHOICE_QUESTION * len(documents)
    if Rolling in kinds:
        seconds += PER_KILOBYTE * sum(len(document.fields.get("text", "")) for document in documents) / 1024
    return seconds * (len(cell.model.parents) if cell.model.spec.ensemble else 1)
