"""Implementation of ``crosstok sandbox demo``: the attack suite, run on this machine."""

import textwrap
from collections.abc import Callable

from crosstok.errors import UserError
from crosstok.sandbox.attacks.campaign import CONTROL, Campaign, run_campaign
from crosstok.sandbox.backends.process import Process


def demo(backend: str = "auto", workers: int = 2, progress: Callable[[int, int], None] | None = None) -> Campaign:
    """Run every attack. Raises UserError if the backend does not work here or does not isolate programs."""
    if backend == Process.name:
        raise UserError(
            "The backend 'process' does not isolate programs: the attacks would reach this machine.",
            hint="Try bubblewrap, namespaces or docker; `crosstok doctor` shows which of them work here.",
        )
    return run_campaign(backend, workers, progress)


def table(campaign: Campaign) -> str:
    """Return the outcomes as text: one line per attack, then three that summarise attacks, controls and host."""
    lines = [f"{'attack':12} {'name':26} {'verdict':13} {'outcome':14} attempt"]
    attacks = [row for row in campaign.rows if row.kind != CONTROL]
    controls = [row for row in campaign.rows if row.kind == CONTROL]
    for row in [*attacks, *(row for row in controls if row.outcome != "held")]:
        status = row.verdict.status.value if row.verdict else "-"
        what = textwrap.shorten("; ".join([*row.changes, row.attack.what]), 60, placeholder="…")
        lines.append(f"{row.kind:12} {row.attack.name:26} {status:13} {row.outcome:14} {what}")
    counts = {
        outcome: sum(row.outcome == outcome for row in attacks) for outcome in ("held", "BROKEN", "not guaranteed")
    }
    right = sum(row.outcome == "held" for row in controls)
    lines.append("")
    lines.append(f"{campaign.backend}: {', '.join(f'{count} {outcome}' for outcome, count in counts.items())}")
    lines.append(f"controls after each attack: {right} of {len(controls)} received the right verdict")
    lines.append(f"host afterwards: {'; '.join(campaign.left) or 'unchanged'}")
    return "\n".join(lines)
