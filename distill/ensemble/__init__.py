"""Several models answering as one: ``lockstep`` for members of one tokenizer, ``own_tokens`` for all others."""

from crosstok.distill.ensemble.lockstep import EnsembleCache, EnsembleConfig, EnsembleForCausalLM
from crosstok.distill.ensemble.own_tokens import OwnTokensConfig, OwnTokensEnsemble
from crosstok.distill.ensemble.saving import save_ensemble

__all__ = [
    "EnsembleCache",
    "EnsembleConfig",
    "EnsembleForCausalLM",
    "OwnTokensConfig",
    "OwnTokensEnsemble",
    "save_ensemble",
]
