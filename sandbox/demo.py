"""``crosstok sandbox demo``: run the attack suite on this machine and show what came of it."""

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

from sandbox.attacks import EXHAUSTION, FORGERIES, PERSISTENCE, Attack, bait, escapes
from sandbox.pool import open_pool
from sandbox.verdict import Verdict


@dataclass(frozen=True, slots=True)
class Held:
    """One attack and what came of it."""

    kind: str
    attack: Attack
    verdict: Verdict | None
    """None where the backend does not promise what the attack is about."""

    @property
    def outcome(self) -> str:
        """``held``, ``BROKEN``, or ``not promised``."""
        if self.verdict is None:
            return "not promised"
        return "held" if self.verdict.status in self.attack.expected else "BROKEN"


def demo(backend: str = "auto", workers: int = 2) -> Iterator[Held]:
    """Run every attack, those in pairs last, and yield each as it is done."""
    with bait() as host:
        kinds = {"forgery": FORGERIES, "exhaustion": EXHAUSTION, "escape": escapes(host)}
        with open_pool(backend, workers=workers) as pool:
            promised = pool.guarantees
            by_name = {attack.name: (kind, attack) for kind, attacks in kinds.items() for attack in attacks}
            able = [attack for _, attack in by_name.values() if attack.needs <= promised]
            for verdict in pool.run(attack.program() for attack in able):
                yield Held(*by_name[verdict.id], verdict)
            yield from (Held(kind, attack, None) for kind, attack in by_name.values() if attack not in able)
        with open_pool(backend, workers=1) as pool:  # both of a pair in the same worker
            for attack in (attack for pair in PERSISTENCE for attack in pair):
                yield Held("persistence", attack, next(pool.run([attack.program()])))


def table(rows: list[Held]) -> str:
    """Return the outcomes as text: a line for each attack, and one that counts them."""
    lines = [f"{'attack':12} {'name':26} {'verdict':13} {'outcome':12} what it tries"]
    for row in rows:
        status = row.verdict.status.value if row.verdict else "-"
        what = textwrap.shorten(row.attack.what, 60, placeholder="…")
        lines.append(f"{row.kind:12} {row.attack.name:26} {status:13} {row.outcome:12} {what}")
    counts = {outcome: sum(row.outcome == outcome for row in rows) for outcome in ("held", "BROKEN", "not promised")}
    lines.append(", ".join(f"{count} {outcome}" for outcome, count in counts.items()))
    return "\n".join(lines)
