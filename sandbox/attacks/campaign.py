"""Runs every attack on one backend, and looks after each whether worker and host are as they were.

After each attack a control program goes to the worker that held it, and the host is looked over: the bait untouched,
no visitor, no mount, no shared memory, no System V object. When all workers have ended, no process of theirs may be
left. The tests and ``crosstok sandbox demo`` run the same campaign.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from crosstok.sandbox.attacks.attack import PASSED, Attack
from crosstok.sandbox.attacks.escapes import escapes
from crosstok.sandbox.attacks.exhaustion import EXHAUSTION
from crosstok.sandbox.attacks.forgeries import FORGERIES
from crosstok.sandbox.attacks.host import Host, bait, descendants, traces
from crosstok.sandbox.attacks.persistence import PERSISTENCE
from crosstok.sandbox.pool import Pool
from crosstok.sandbox.program import Program
from crosstok.sandbox.selection import open_pool
from crosstok.sandbox.verdict import Verdict

CONTROL = "control"


@dataclass(frozen=True, slots=True)
class Held:
    """One attack, or the control after it, and what came of it."""

    kind: str
    """``forgery``, ``exhaustion``, ``escape``, ``persistence`` or ``control``."""
    attack: Attack
    verdict: Verdict | None
    """None where the backend does not promise what the attack is about."""
    harm: tuple[str, ...] = ()
    """What of the host was not as before when the verdict came; by this attack or by one beside it."""

    @property
    def outcome(self) -> str:
        """``held``, ``BROKEN``, or ``not promised``."""
        if self.verdict is None:
            return "not promised"
        return "held" if self.verdict.status in self.attack.expected and not self.harm else "BROKEN"


@dataclass(slots=True)
class Campaign:
    """All attacks on one backend."""

    backend: str
    guarantees: frozenset[str] = frozenset()
    rows: list[Held] = field(default_factory=list)
    left: tuple[str, ...] = ()
    """What of the host was not as before when everything had ended, processes included."""

    @property
    def broken(self) -> bool:
        """Whether anything came to what it must not."""
        return bool(self.left) or any(row.outcome == "BROKEN" for row in self.rows)


def run_campaign(
    backend: str = "auto", workers: int = 2, progress: Callable[[int, int], None] | None = None
) -> Campaign:
    """Run every attack; those in pairs come last. ``progress`` is told how many are done, and of how many.

    Raises UserError where the backend does not work here.
    """
    before, children = traces(), set(descendants(os.getpid()))
    with bait() as host:
        kinds = {"forgery": FORGERIES, "exhaustion": EXHAUSTION, "escape": escapes(host)}
        attacks = {attack.name: (kind, attack) for kind, group in kinds.items() for attack in group}
        total = len(attacks) + 2 * len(PERSISTENCE)
        campaign = Campaign(backend)

        def keep(row: Held) -> None:
            campaign.rows.append(row)
            if progress:
                progress(sum(row.kind != CONTROL for row in campaign.rows), total)

        with open_pool(backend, workers=workers) as pool:
            campaign.backend, campaign.guarantees = pool.backend, pool.guarantees
            for row in _attacked(pool, attacks, workers, lambda: tuple(host.harm(before))):
                keep(row)
        with open_pool(backend, workers=1) as pool:  # both of a pair in the same worker
            for attack in (attack for pair in PERSISTENCE for attack in pair):
                verdict = next(pool.run([attack.program()]))
                keep(Held("persistence", attack, verdict, tuple(host.harm(before))))
        left = [f"process {pid} ({name})" for pid, name in descendants(os.getpid()).items() if pid not in children]
        campaign.left = (*left, *host.harm(before))
    return campaign


def _attacked(
    pool: Pool, attacks: dict[str, tuple[str, Attack]], workers: int, harm: Callable[[], tuple[str, ...]]
) -> Iterator[Held]:
    able = {name: found for name, found in attacks.items() if found[1].needs <= pool.guarantees}
    controls: deque[Attack] = deque()

    def programs() -> Iterator[Program]:
        # Asked when a worker is free, which has just been told of here: its control comes before the next attack.
        for _, attack in able.values():
            while controls:
                yield controls.popleft().program()
            yield attack.program()

    held = dict(able)
    for verdict in pool.run(programs()):
        kind, attack = held.pop(verdict.id)
        yield Held(kind, attack, verdict, harm())
        if kind != CONTROL:
            control = _control(attack)
            held[control.name] = (CONTROL, control)
            controls.append(control)
    # The last attacks ended beside each other; all of their workers are tried now.
    last = [*controls, *(_control(None, number) for number in range(workers))]
    by_name = {control.name: control for control in last}
    for verdict in pool.run(control.program() for control in last):
        yield Held(CONTROL, by_name[verdict.id], verdict, harm())
    for kind, attack in attacks.values():
        if attack.name not in able:
            yield Held(kind, attack, None)


def _control(attack: Attack | None, number: int = 0) -> Attack:
    name = f"after {attack.name}" if attack else f"after all, {number}"
    candidate, tests = "def one():\n    return 1\n", "assert one() == 1\n"
    return Attack(name, "is judged rightly by the worker that held the attack", candidate, PASSED, tests, "one")


def names(kind: str) -> list[str]:
    """Return the names of the attacks of one kind, without hanging out any bait."""
    if kind == "persistence":
        return [attack.name for pair in PERSISTENCE for attack in pair]
    nowhere = Host.nowhere()
    groups = {"forgery": FORGERIES, "exhaustion": EXHAUSTION, "escape": escapes(nowhere)}
    return [attack.name for attack in groups[kind]]
