"""Methods that a recipe names, created with their options: losses and the initialiser."""

from pathlib import Path

from crosstok.distill.embeddings import Initialiser
from crosstok.distill.expansion.selection import strings
from crosstok.distill.losses import Loss
from crosstok.distill.models import checkpoints
from crosstok.distill.recipes.options import ExpandSpec, NewVocabularySpec, StudentSpec, TransferSpec
from crosstok.distill.registry import INITIALISERS, LOSSES
from crosstok.errors import UserError
from crosstok.fingerprint import file_sha256


def losses_of(spec: StudentSpec) -> list[Loss]:
    """Return new instances of the losses."""
    return [LOSSES.create(choice) for choice in spec.loss]


def initialiser_of(spec: StudentSpec) -> Initialiser | None:
    """Return a new instance of the initialiser; None for a recipe that makes no rows."""
    return INITIALISERS.create(spec.init) if isinstance(spec, NewVocabularySpec) else None


def check_methods(spec: StudentSpec) -> None:
    """Raise UserError for methods that cannot be imported, wrong options of methods, and an empty list of tokens."""
    initialiser_of(spec)
    if isinstance(spec, ExpandSpec) and spec.tokens.list is not None and not strings(spec.tokens.list):
        raise UserError("The expansion is empty: no token is listed.", hint="List tokens that the model lacks.")
    losses_of(spec)


def corpora_of(spec: StudentSpec) -> list[str]:
    """Return the text sources that making the student reads, in a fixed order.

    These are the training text, the text that a tokenizer or new tokens are learnt from, and an initialiser's text.
    """
    named = {spec.corpus} if spec.steps else set()
    if (initialiser := initialiser_of(spec)) is not None and initialiser.text_source is not None:
        named.add(initialiser.text_source)
    if isinstance(spec, TransferSpec) and spec.tokenizer.startswith("train:"):
        named.add(spec.tokenizer.split(":", 2)[-1].rpartition(":")[0])
    if isinstance(spec, ExpandSpec) and spec.tokens.text is not None:
        named.add(spec.tokens.text.corpus)
    return sorted(named)


def foreign_content(spec: StudentSpec) -> dict[str, str]:
    """Return the hash of everything outside crosstok that decides the student, by the name that it has in the recipe.

    This covers the code of methods that are not built in, models that an initialiser reads, and files of tokens.
    """
    found = {name: code for name in spec.loss_names if (code := LOSSES.code(name))}
    if isinstance(spec, NewVocabularySpec):
        if code := INITIALISERS.code(spec.init_name):
            found[spec.init_name] = code
        if (donor := INITIALISERS.create(spec.init).model_source) is not None:
            found[donor] = checkpoints.identify(donor)
    if isinstance(spec, ExpandSpec) and isinstance(spec.tokens.list, str):
        strings(spec.tokens.list)  # one clear line for a file that cannot be read
        found[spec.tokens.list] = file_sha256(Path(spec.tokens.list))
    return found
