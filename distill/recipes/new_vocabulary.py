"""Steps that ``transfer`` and ``expand`` share: copying the source where it teaches, and replacing its vocabulary."""

import copy
from collections.abc import Mapping
from pathlib import Path

from transformers import PreTrainedModel

from crosstok.corpora import load_texts
from crosstok.distill.embeddings import Rows, SourceModel
from crosstok.distill.embeddings.transplant import transplant
from crosstok.distill.models.checkpoints import Checkpoint
from crosstok.distill.models.lora import share
from crosstok.distill.recipes.options import NewVocabularySpec
from crosstok.distill.registry import INITIALISERS
from crosstok.distill.tokenizers.tokenbytes import TokenBytes


def untrained_copy(spec: NewVocabularySpec, source: Checkpoint) -> PreTrainedModel:
    """Return a copy of the source's model. Tensors that training leaves alone are shared, not copied."""
    return copy.deepcopy(source.model) if spec.train == "full" else share(source.model)


def give_vocabulary(
    spec: NewVocabularySpec,
    model: PreTrainedModel,
    source: Checkpoint,
    tokens: TokenBytes,
    specials: Mapping[int, int],
    *,
    data: Path | None,
) -> Rows:
    """Give ``model`` the vocabulary ``tokens`` in place, with rows made by the recipe's initialiser; return the rows.

    ``specials`` maps target ids to the source ids that play the same role; ``data`` is the data folder.
    """
    initialiser = INITIALISERS.create(spec.init)
    source_model = None
    if initialiser.text_source is not None:
        texts = load_texts(initialiser.text_source, "train", data)
        source_model = SourceModel(model, source.bos_id, texts)
    return transplant(model, initialiser, source.tokenbytes, tokens, specials, source_model=source_model)
