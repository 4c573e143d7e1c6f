"""Ensembles: several models that answer as one, with one tokenizer (``lockstep``) or with several (``own_tokens``)."""

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
