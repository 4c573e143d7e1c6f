"""Several models answering as one: ``lockstep`` for members of one tokenizer, ``own_tokens`` for all others."""

from distill.ensemble.lockstep import EnsembleCache, EnsembleConfig, EnsembleForCausalLM
from distill.ensemble.own_tokens import OwnTokensConfig, OwnTokensEnsemble
from distill.ensemble.saving import save_ensemble

__all__ = [
    "EnsembleCache",
    "EnsembleConfig",
    "EnsembleForCausalLM",
    "OwnTokensConfig",
    "OwnTokensEnsemble",
    "save_ensemble",
]
