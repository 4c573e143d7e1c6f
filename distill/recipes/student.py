"""Making students: from a checked recipe to a folder that any Hugging Face program reads.

A recipe's builder makes the student in memory, trained or not. Everything else is done here for all recipes: checking
options, recording the student's identity, keeping the state of an unfinished one, and saving.

The student's folder appears whole or not at all. Until then everything lies in a working folder beside it, from which
the same call continues after an interruption. A call for a student that exists does nothing.
"""

import json
import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from crosstok.corpora import load_texts
from crosstok.distill.ensemble import EnsembleForCausalLM
from crosstok.distill.inspection.snapshots import FOLDER as SNAPSHOTS
from crosstok.distill.models import checkpoints, model_card, provenance
from crosstok.distill.recipes.building import BuildContext, BuiltStudent
from crosstok.distill.recipes.distil import build_distil
from crosstok.distill.recipes.expand import build_expand
from crosstok.distill.recipes.identity import StudentIdentity, identify_student
from crosstok.distill.recipes.methods import check_methods, losses_of
from crosstok.distill.recipes.options import StudentSpec, read_recipe
from crosstok.distill.recipes.transfer import build_transfer
from crosstok.distill.training.log import plot_log, read_log
from crosstok.distill.training.loop import LOG, TrainingSpec
from crosstok.errors import UserError
from crosstok.progress import Advance

log = logging.getLogger(__name__)

_IDENTITY = "identity.txt"
_BUILDERS: dict[str, Callable[..., BuiltStudent]] = {
    "transfer": build_transfer,
    "distil": build_distil,
    "expand": build_expand,
}


def check_student(recipe: str, options: Mapping[str, Any], name: str = "student") -> StudentSpec:
    """Return the options of model ``name``, made by ``recipe``, with its methods and their options checked.

    Raises UserError for unknown keys, values out of range, and methods or options of methods that do not exist.
    """
    spec = read_recipe(recipe, options, name)
    check_methods(spec)
    return spec


def make_student(
    spec: StudentSpec,
    out: Path,
    *,
    identity: StudentIdentity | None = None,
    data: Path | None = None,
    device: str = "auto",
    progress: Advance | None = None,
    replace: bool = False,
) -> Path:
    """Make the student that ``spec`` describes in the folder ``out`` and return it.

    ``identity`` is what :func:`identify_student` returned for it, if that was called before. ``data`` is the data
    folder (for corpora), ``progress`` is called after each training step. An existing folder is returned as it is if it
    holds this student; another folder is an error, or is removed if ``replace`` is set. Raises UserError for sources
    that cannot be fetched, a folder that holds something else, and training that fails (see ``training.train``).
    """
    identity = identity or identify_student(spec, data=data)
    if out.exists():
        difference = _difference(out, identity)
        if not difference:
            shutil.rmtree(_beside(out), ignore_errors=True)  # left by a kill right after the student appeared
            return out
        if not replace:
            raise UserError(f"{out} {difference}.", hint="Name another folder, or remove this one.")
        log.warning("%s %s and is replaced", out, difference)
        shutil.rmtree(out)
    work = _working_folder(out, identity.fingerprint)
    texts = load_texts(spec.corpus, "train", data) if spec.steps else None
    source = checkpoints.load(spec.source)
    if isinstance(source.model, EnsembleForCausalLM):
        raise UserError(
            f"{spec.source} is an ensemble, which has no weights of its own to change.",
            hint="Take its members, one by one.",
        )
    made = _BUILDERS[spec.kind](spec, source, BuildContext(work, texts, data, device, progress, source.tokenbytes))
    if (work / LOG).exists():
        plot_log(work / LOG, work / "training.svg", f"{source.source} → {spec.label}")
    record = made.record | {
        "kind": "student",
        "source": source.provenance["source"],
        "source_fingerprint": source.fingerprint,
        "root_fingerprint": source.provenance.get("root_fingerprint") or source.provenance["source_fingerprint"],
        "licence": source.provenance.get("licence", ""),
        "data": [{"name": texts.name, **texts.source}] if texts else [],
        "losses": [loss.describe() for loss in losses_of(spec)] if spec.steps else [],
        "training": {
            "recipe": spec.kind,
            "identity": identity.fingerprint,
            "version": identity.version,
            **(_training(spec) if spec.steps else {"steps": 0}),
        },
        "seed": spec.seed if spec.steps else None,
        "metrics": _summary(work / LOG) | made.record.get("metrics", {}),
        "dtype": "float32",
    }
    finished = checkpoints.save(made.checkpoint, work / "student", record)
    model_card.write(finished, record, spec.label)
    for name in (LOG, "training.svg", *made.files):
        if (work / name).exists():
            shutil.copyfile(work / name, finished / name)
    if (work / SNAPSHOTS).exists():
        shutil.copytree(work / SNAPSHOTS, finished / SNAPSHOTS)
    finished.rename(out)
    shutil.rmtree(work)
    return out


def _training(spec: StudentSpec) -> dict[str, Any]:
    fields = set(TrainingSpec.model_fields) - {"seed"}
    return spec.model_dump(mode="json", include=fields)


def _summary(path: Path) -> dict[str, Any]:
    """Return what the log says of the first and the last step, and of the whole run."""
    lines = read_log(path)
    if not lines:
        return {}
    return {
        "first_step": lines[0]["loss"],
        "last_step": lines[-1]["loss"],
        "bytes": sum(line["bytes"] for line in lines),
        "refused_windows": sum(line["refused_windows"] for line in lines),
        "seconds": lines[-1]["seconds"],
    }


def _difference(folder: Path, identity: StudentIdentity) -> str:
    """Return how the content of ``folder`` differs from the student ``identity``, empty if it is that student."""
    try:
        training = json.loads((folder / provenance.FILE).read_text(encoding="utf-8")).get("training", {})
    except (OSError, ValueError, AttributeError):
        return "exists and holds no student of crosstok"
    if training.get("identity") == identity.fingerprint:
        return ""
    version = training.get("version", 0)
    if version != identity.version:
        return f"holds a student of version {version}, and this crosstok makes version {identity.version}"
    return "holds a student that was made from other models, options or texts"


def _beside(out: Path) -> Path:
    return out.parent / f".{out.name}.work"


def _working_folder(out: Path, identity: str) -> Path:
    """Return the working folder of ``out``, emptied if another student left it."""
    work = _beside(out)
    try:
        note = work / _IDENTITY
        if work.exists() and (not note.exists() or note.read_text(encoding="utf-8") != identity):
            log.warning("the unfinished student in %s was made by another recipe and is removed", work)
            shutil.rmtree(work)
        work.mkdir(parents=True, exist_ok=True)
        note.write_text(identity, encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"The folder {out.parent} cannot be written: {error.strerror}.", hint="Choose another one."
        ) from error
    return work
