"""Programs that attack the sandbox, and what must come of each (:mod:`sandbox.attacks.attack`)."""

from sandbox.attacks.attack import Attack
from sandbox.attacks.escapes import escapes
from sandbox.attacks.exhaustion import EXHAUSTION
from sandbox.attacks.forgeries import FORGERIES
from sandbox.attacks.host import Host, bait, descendants, traces
from sandbox.attacks.persistence import DETERMINISM, PERSISTENCE

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
