"""Attack suite: hostile programs, each with the verdicts it may get (:mod:`crosstok.sandbox.attacks.attack`)."""

from crosstok.sandbox.attacks.attack import Attack
from crosstok.sandbox.attacks.escapes import escapes
from crosstok.sandbox.attacks.exhaustion import EXHAUSTION
from crosstok.sandbox.attacks.forgeries import FORGERIES
from crosstok.sandbox.attacks.host import Host, decoys, descendants, traces
from crosstok.sandbox.attacks.persistence import DETERMINISM, PERSISTENCE

__all__ = [
    "DETERMINISM",
    "EXHAUSTION",
    "FORGERIES",
    "PERSISTENCE",
    "Attack",
    "Host",
    "decoys",
    "descendants",
    "escapes",
    "traces",
]
