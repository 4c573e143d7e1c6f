from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from crosstok import sandbox
from crosstok.sandbox import Status, Verdict
from crosstok.sandbox.attacks import FORGERIES, PERSISTENCE, Attack, Host, traces
from crosstok.sandbox.attacks.campaign import CONTROL, AttackResult, Campaign, names, run_campaign

REPORTS = {report.name: report for report in sandbox.probe() if report.available and report.name != "process"}
NAMES = [name for kind in ("forgery", "exhaustion", "escape") for name in names(kind)]
PAIRS = [(planting.name, looking.name) for planting, looking in PERSISTENCE]


@pytest.fixture(scope="module", params=list(REPORTS))
def campaign(request: pytest.FixtureRequest) -> Iterator[Campaign]:
    from pytest_socket import disable_socket, enable_socket  # the decoys include a TCP server

    enable_socket()
    try:
        yield run_campaign(request.param)
    finally:
        disable_socket(allow_unix_socket=True)


def row(campaign: Campaign, name: str) -> AttackResult:
    (found,) = [row for row in campaign.rows if row.attack.name == name]
    return found


@pytest.mark.parametrize("name", NAMES)
def test_an_attack_comes_to_what_it_must(campaign: Campaign, name: str) -> None:
    held = row(campaign, name)
    if held.verdict is None:
        lacking = sorted(held.attack.needs - campaign.guarantees)
        assert lacking
        pytest.skip(f"this backend does not guarantee {', '.join(lacking)} here")
    assert held.verdict.status in held.attack.expected, (held.attack.what, held.verdict)
    assert held.changes == ()


@pytest.mark.parametrize(("planting", "looking"), PAIRS)
def test_a_program_finds_nothing_of_the_one_before_it(campaign: Campaign, planting: str, looking: str) -> None:
    for name in (planting, looking):
        held = row(campaign, name)
        assert held.outcome == "held", (held.verdict, held.changes)


def test_no_wrong_solution_was_taken_for_a_right_one(campaign: Campaign) -> None:
    verdicts = [row(campaign, attack.name).verdict for attack in FORGERIES]
    assert [verdict for verdict in verdicts if verdict is not None and verdict.passed] == []


def test_the_worker_judges_rightly_after_every_attack(campaign: Campaign) -> None:
    controls = [row for row in campaign.rows if row.kind == CONTROL]
    attacked = [row for row in campaign.rows if row.kind in ("forgery", "exhaustion", "escape") and row.verdict]
    assert {f"after {row.attack.name}" for row in attacked} <= {row.attack.name for row in controls}
    assert [row for row in controls if row.outcome != "held"] == []


def test_the_host_is_as_it_was(campaign: Campaign) -> None:
    assert campaign.left == ()
    assert not campaign.broken


def test_there_are_more_than_a_hundred_attacks_with_names_of_their_own() -> None:
    everything = NAMES + names("persistence")
    assert len(everything) == len(set(everything)) > 120


def test_attacks_differ_in_what_they_do_and_say() -> None:
    attacks = [*FORGERIES, *(attack for pair in PERSISTENCE for attack in pair)]
    assert len({attack.what for attack in attacks}) == len({attack.candidate for attack in attacks}) == len(attacks)


# --- the campaign itself: a successful attack must be detected ---------------------------------------------------


def judged(status: Status, *changes: str) -> AttackResult:
    return AttackResult("forgery", FORGERIES[0], Verdict("x", status, "split", "tier"), changes)


def test_a_verdict_that_must_not_be_and_a_host_that_changed_are_broken() -> None:
    assert judged(Status.FAILED).outcome == "held"
    assert judged(Status.PASSED).outcome == "BROKEN"
    assert judged(Status.SANDBOX_ERROR).outcome == "BROKEN"
    assert judged(Status.FAILED, "mounts changed").outcome == "BROKEN"
    assert AttackResult("forgery", FORGERIES[0], None).outcome == "not guaranteed"
    assert not Campaign("x", rows=[judged(Status.FAILED)]).broken
    assert Campaign("x", rows=[judged(Status.FAILED), judged(Status.PASSED)]).broken
    assert Campaign("x", left=("process 7 (python)",)).broken


def test_a_decoy_file_that_was_written_and_traces_of_a_program_are_seen(tmp_path: Path) -> None:
    host = replace(Host.placeholder(), canary=tmp_path / "canary.txt", token="genuine")
    host.canary.write_text("genuine")
    assert host.changes(traces()) == []
    host.canary.write_text("forged")
    assert host.changes({**traces(), "mounts": []}) == ["the decoy file was written", "mounts changed"]


def test_on_an_unisolated_backend_the_campaign_reports_successful_attacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """On an unisolated backend, probes reach the host. Only harmless probes run."""
    from pytest_socket import disable_socket, enable_socket  # the decoys

    from crosstok.sandbox.attacks.escapes import escapes

    def harmless(host: Host) -> tuple[Attack, ...]:
        wanted = {"host-files", "loopback", "abstract-socket"}
        found = [attack for attack in escapes(host) if attack.name in wanted]
        assert len(found) == len(wanted)
        return tuple(replace(attack, needs=frozenset()) for attack in found)

    for kind in ("FORGERIES", "EXHAUSTION", "PERSISTENCE"):
        monkeypatch.setattr(f"crosstok.sandbox.attacks.campaign.{kind}", ())
    monkeypatch.setattr("crosstok.sandbox.attacks.campaign.escapes", harmless)
    monkeypatch.setattr(
        "crosstok.sandbox.attacks.campaign.open_pool",
        lambda backend, workers: sandbox.open_pool(backend, workers, unsafe=True),
    )
    enable_socket()
    try:
        campaign = run_campaign("process", workers=1)
    finally:
        disable_socket(allow_unix_socket=True)
    attacks = [row for row in campaign.rows if row.kind != CONTROL]
    assert {row.outcome for row in attacks} == {"BROKEN"}, attacks
    assert campaign.broken
