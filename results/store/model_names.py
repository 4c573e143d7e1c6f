"""Names of the models of a run: the name in the suite, and the seed of a model that is made once per seed."""

from collections.abc import Mapping
from typing import Any, NamedTuple


class ModelName(NamedTuple):
    """Name of a model in a run; ``str`` gives the name under which tables show it."""

    model: str
    """Name in the suite. It may contain ``@``: nothing is ever parsed out of it."""
    seed: int | None = None
    """Seed that the model was made with; None where the suite makes it only once."""

    def __str__(self) -> str:
        return self.model if self.seed is None else f"{self.model}@{self.seed}"


def name_from_old_store(shown: str, config: Mapping[str, Any]) -> ModelName:
    """Return the parts of a name out of a store that kept only what was shown (schema version 5 and older).

    ``config`` is the suite of the run. A name is split only where it is not itself a model of the suite, its first
    part is one, and its last part is one of several seeds of the suite.
    """
    models, seeds = config.get("models"), config.get("seeds")
    models = models if isinstance(models, Mapping) else {}
    seeds = seeds if isinstance(seeds, list) and len(seeds) > 1 else []
    model, _, last = shown.rpartition("@")
    seed = next((seed for seed in seeds if str(seed) == last), None)
    return ModelName(shown) if seed is None or shown in models or model not in models else ModelName(model, seed)
