import os
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

import sandbox
from sandbox import Program, Verdict
from sandbox.attacks import EXHAUSTION, FORGERIES, PERSISTENCE, Attack, bait, descendants, escapes, traces
from sandbox.attacks.host import Host

REPORTS = {report.name: report for report in sandbox.probe() if report.available and report.name != "process"}
CONTROL = Program("control", "def one():\n    return 1\n", "assert one() == 1\n", "one")
_NOWHERE = Host.__new__(Host)  # only the names of the escapes are wanted at collection
for field, value in (("canary", "/"), ("port", 1), ("abstract", "x"), ("token", "x"), ("listeners", ())):
    object.__setattr__(_NOWHERE, field, value)
NAMES = [attack.name for attack in (*FORGERIES, *EXHAUSTION, *escapes(_NOWHERE))]
PAIRS = [(planting.name, looking.name) for planting, looking in PERSISTENCE]


@dataclass
class Campaign:
    """All attacks on one backend, and the state of the host around them."""

    attacks: dict[str, Attack]
    verdicts: dict[str, Verdict]
    controls: list[Verdict]
    visitors: list[str]
    canary_is_intact: bool
    traces_before: dict[str, object]
    traces_after: dict[str, object]
    left_over: dict[int, str]
    guarantees: frozenset[str]


def _campaign(backend: str) -> Campaign:
    before, children = traces(), descendants(os.getpid())
    with bait() as host:
        attacks = {attack.name: attack for attack in (*FORGERIES, *EXHAUSTION, *escapes(host))}
        verdicts: dict[str, Verdict] = {}
        controls: list[Verdict] = []
        with sandbox.open_pool(backend, workers=2) as pool:
            # A control after each attack: the worker that held the attack must still judge rightly.
            programs = (program for attack in attacks.values() for program in (attack.program(), CONTROL))
            for verdict in pool.run(programs):
                if verdict.id == CONTROL.id:
                    controls.append(verdict)
                else:
                    verdicts[verdict.id] = verdict
        with sandbox.open_pool(backend, workers=1) as pool:
            for pair in PERSISTENCE:
                for attack in pair:
                    attacks[attack.name] = attack
                    verdicts[attack.name] = next(pool.run([attack.program()]))
        left = {pid: name for pid, name in descendants(os.getpid()).items() if pid not in children}
        return Campaign(
            attacks,
            verdicts,
            controls,
            host.visitors(),
            host.canary.read_text() == host.token,
            before,
            traces(),
            left,
            REPORTS[backend].guarantees,
        )


@pytest.fixture(scope="module", params=list(REPORTS))
def campaign(request: pytest.FixtureRequest) -> Iterator[Campaign]:
    from pytest_socket import disable_socket, enable_socket  # noqa: PLC0415  (the bait is a server on the loopback)

    enable_socket()
    try:
        yield _campaign(request.param)
    finally:
        disable_socket(allow_unix_socket=True)


@pytest.mark.parametrize("name", NAMES)
def test_an_attack_comes_to_what_it_must(campaign: Campaign, name: str) -> None:
    attack, verdict = campaign.attacks[name], campaign.verdicts[name]
    if not attack.needs <= campaign.guarantees:
        pytest.skip(f"this backend does not promise {', '.join(sorted(attack.needs - campaign.guarantees))} here")
    assert verdict.status in attack.expected, (attack.what, verdict)


@pytest.mark.parametrize(("planting", "looking"), PAIRS)
def test_a_program_finds_nothing_of_the_one_before_it(campaign: Campaign, planting: str, looking: str) -> None:
    for name in (planting, looking):
        verdict = campaign.verdicts[name]
        assert verdict.status in campaign.attacks[name].expected, verdict


def test_no_wrong_solution_was_taken_for_a_right_one(campaign: Campaign) -> None:
    assert [attack.name for attack in FORGERIES if campaign.verdicts[attack.name].passed] == []


def test_the_worker_judges_rightly_after_every_attack(campaign: Campaign) -> None:
    assert len(campaign.controls) == len(NAMES)
    assert [verdict for verdict in campaign.controls if not verdict.passed] == []


def test_the_host_is_as_it_was(campaign: Campaign) -> None:
    assert campaign.visitors == []
    assert campaign.canary_is_intact
    assert campaign.left_over == {}
    assert campaign.traces_after == campaign.traces_before


def test_there_are_more_than_a_hundred_attacks_with_names_of_their_own() -> None:
    names = NAMES + [name for pair in PAIRS for name in pair]
    assert len(names) == len(set(names)) > 100
