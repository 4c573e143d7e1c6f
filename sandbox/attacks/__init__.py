"""Programs that attack the sandbox, and what must come of each (:mod:`crosstok.sandbox.attacks.attack`)."""

from crosstok.sandbox.attacks.attack import Attack
from crosstok.sandbox.attacks.escapes import escapes
from crosstok.sandbox.attacks.exhaustion import EXHAUSTION
from crosstok.sandbox.attacks.forgeries import FORGERIES
from crosstok.sandbox.attacks.host import Host, bait, descendants, traces
from crosstok.sandbox.attacks.persistence import DETERMINISM, PERSISTENCE

__all__ = [
    "DETERMINISM",
    "EXHAUSTION",
    "FORGERIES",
    "PERSISTENCE",
    "Attack",
    "Host",
    "bait",
    "descendants",
    "escapes",
    "traces",
]
