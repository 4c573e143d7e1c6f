"""Campaign: every attack on one backend, with checks of worker and host after each.

After each attack, the worker that ran it must judge a control program correctly, and the host is inspected: decoys
untouched, no connection, no new mount, shared memory or System V object. Once all workers have ended, none of their
processes may remain. The tests and ``crosstok sandbox demo`` run the same campaign.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from crosstok.sandbox.attacks.attack import PASSED, Attack
from crosstok.sandbox.attacks.escapes import escapes
from crosstok.sandbox.attacks.exhaustion import EXHAUSTION
from crosstok.sandbox.attacks.forgeries import FORGERIES
from crosstok.sandbox.attacks.host import Host, decoys, descendants, traces
from crosstok.sandbox.attacks.persistence import PERSISTENCE
from crosstok.sandbox.pool import Pool
from crosstok.sandbox.program import Program
from crosstok.sandbox.selection import open_pool
from crosstok.sandbox.verdict import Verdict

CONTROL = "control"


@dataclass(frozen=True, slots=True)
class AttackResult:
    """Outcome of one attack, or of the control program after it."""

    kind: str
    """``forgery``, ``exhaustion``, ``escape``, ``persistence`` or ``control``."""
    attack: Attack
    verdict: Verdict | None
    """None if the backend does not give the guarantees that the attack targets."""
    changes: tuple[str, ...] = ()
    """Changes to the host at the time of the verdict, by this attack or a concurrent one."""

    @property
    def outcome(self) -> str:
        """``held``, ``BROKEN`` or ``not guaranteed``."""
        if self.verdict is None:
            return "not guaranteed"
        return "held" if self.verdict.status in self.attack.expected and not self.changes else "BROKEN"


@dataclass(slots=True)
class Campaign:
    """Results of all attacks on one backend."""

    backend: str
    guarantees: frozenset[str] = frozenset()
    rows: list[AttackResult] = field(default_factory=list)
    left: tuple[str, ...] = ()
    """Changes to the host after all workers ended, remaining processes included."""

    @property
    def broken(self) -> bool:
        """Whether any attack succeeded or left a change."""
        return bool(self.left) or any(row.outcome == "BROKEN" for row in self.rows)


def run_campaign(
    backend: str = "auto", workers: int = 2, progress: Callable[[int, int], None] | None = None
) -> Campaign:
    """Run every attack, pairs last. ``progress`` is called with the number of finished attacks and the total.

    Raises UserError if the backend does not work here.
    """
    before, children = traces(), set(descendants(os.getpid()))
    with decoys() as host:
        kinds = {"forgery": FORGERIES, "exhaustion": EXHAUSTION, "escape": escapes(host)}
        attacks = {attack.name: (kind, attack) for kind, group in kinds.items() for attack in group}
        total = len(attacks) + 2 * len(PERSISTENCE)
        campaign = Campaign(backend)

        def record(row: AttackResult) -> None:
            campaign.rows.append(row)
            if progress:
                progress(sum(row.kind != CONTROL for row in campaign.rows), total)

        with open_pool(backend, workers=workers) as pool:
            campaign.backend, campaign.guarantees = pool.backend, pool.guarantees
            for row in _attacked(pool, attacks, workers, lambda: tuple(host.changes(before))):
                record(row)
        with open_pool(backend, workers=1) as pool:  # both programs of a pair in the same worker
            for attack in (attack for pair in PERSISTENCE for attack in pair):
                verdict = next(pool.run([attack.program()]))
                record(AttackResult("persistence", attack, verdict, tuple(host.changes(before))))
        left = [f"process {pid} ({name})" for pid, name in descendants(os.getpid()).items() if pid not in children]
        campaign.left = (*left, *host.changes(before))
    return campaign


def _attacked(
    pool: Pool, attacks: dict[str, tuple[str, Attack]], workers: int, changes: Callable[[], tuple[str, ...]]
) -> Iterator[AttackResult]:
    able = {name: found for name, found in attacks.items() if found[1].needs <= pool.guarantees}
    controls: deque[Attack] = deque()

    def programs() -> Iterator[Program]:
        # Called when a worker is free. Its last verdict was yielded before, so its control precedes the next attack.
        for _, attack in able.values():
            while controls:
                yield controls.popleft().program()
            yield attack.program()

    running = dict(able)
    for verdict in pool.run(programs()):
        kind, attack = running.pop(verdict.id)
        yield AttackResult(kind, attack, verdict, changes())
        if kind != CONTROL:
            control = _control(attack)
            running[control.name] = (CONTROL, control)
            controls.append(control)
    # The last attacks ended concurrently; now run controls on all of their workers.
    last = [*controls, *(_control(None, number) for number in range(workers))]
    by_name = {control.name: control for control in last}
    for verdict in pool.run(control.program() for control in last):
        yield AttackResult(CONTROL, by_name[verdict.id], verdict, changes())
    for kind, attack in attacks.values():
        if attack.name not in able:
            yield AttackResult(kind, attack, None)


def _control(attack: Attack | None, number: int = 0) -> Attack:
    name = f"after {attack.name}" if attack else f"after all, {number}"
    candidate, tests = "def one():\n    return 1\n", "assert one() == 1\n"
    return Attack(name, "gets the right verdict from the worker that ran the attack", candidate, PASSED, tests, "one")


def names(kind: str) -> list[str]:
    """Return the names of the attacks of one kind, without setting up decoys."""
    if kind == "persistence":
        return [attack.name for pair in PERSISTENCE for attack in pair]
    placeholder = Host.placeholder()
    groups = {"forgery": FORGERIES, "exhaustion": EXHAUSTION, "escape": escapes(placeholder)}
    return [attack.name for attack in groups[kind]]
