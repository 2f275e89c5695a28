"""What the port Alerts reads from real Alertmanagers: active, silenced by whom, inhibited, gone, down."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.integration.responder_am.conftest import WallClock, alert, no_problem, until

from gpuheal_lab.servers.find import Generation, Server
from gpuheal_lab.servers.stack import Alertmanager, Stack, webhook_config
from gpuheal_responder.config.settings import AlertmanagerPeer
from gpuheal_responder.core.alert import Fault, Peer, SuppressionKind
from gpuheal_responder.core.faults import fold
from gpuheal_responder.core.silence import silence_matches
from gpuheal_responder.shell.sources.alertmanager import AlertmanagerAlerts

pytestmark = pytest.mark.servers


async def ask(*urls: str, settle: timedelta = timedelta(0)) -> tuple[Peer, ...]:
    """Ask the peers once."""
    peers = [AlertmanagerPeer(url=url, timeout=timedelta(seconds=2), settle=settle) for url in urls]
    alerts = AlertmanagerAlerts(peers, clock=WallClock(), on_problem=no_problem)
    try:
        return await alerts.peers()
    finally:
        await alerts.close()


async def fault_on(node: str, alertmanager: Alertmanager) -> Fault | None:
    """The fault that the alerts of one node fold to, or None."""
    peers = await ask(alertmanager.url)
    intake = fold(peers, cluster="", known_faults={"gpu-fell-off-bus"}, known_nodes={node})
    found = intake.faults.get(node, ())
    return found[0] if found else None


def silence(node: str) -> dict[str, Any]:
    """A silence for all faults of a node."""
    now = datetime.now(UTC)
    return {
        "matchers": [
            {"name": "fault", "value": ".+", "isRegex": True, "isEqual": True},
            {"name": "node", "value": node, "isRegex": False, "isEqual": True},
        ],
        "startsAt": now.isoformat(),
        "endsAt": (now + timedelta(hours=1)).isoformat(),
        "createdBy": "ada",
        "comment": "rack move",
    }


async def test_s06_an_active_alert_is_a_fault(quiet_alertmanager: Alertmanager) -> None:
    """An alert that a client posted is read with its labels and start; alerts without a fault are not asked for."""
    posted = [alert(node="active", gpu_uuid="GPU-1"), alert("KubePodCrashLooping", node="active", fault="")]
    await asyncio.to_thread(quiet_alertmanager.post_alerts, posted)
    fault = await until(lambda: fault_on("active", quiet_alertmanager), "the alert")
    assert fault.target.gpu_uuid == "GPU-1"
    assert fault.suppressions == ()
    assert abs(fault.since - datetime.fromisoformat(posted[0]["startsAt"])) < timedelta(milliseconds=1)
    (peer,) = await ask(quiet_alertmanager.url)
    assert {a.labels["alertname"] for a in peer.alerts if a.labels["node"] == "active"} == {"GPUFellOffBus"}


async def test_s06_a_silence_is_seen_at_once_with_its_author(quiet_alertmanager: Alertmanager) -> None:
    """Right after the silence exists the fault is suppressed by its author; when it expires it is not any more."""
    await asyncio.to_thread(quiet_alertmanager.post_alerts, [alert(node="silenced")])
    await until(lambda: fault_on("silenced", quiet_alertmanager), "the alert")
    made = await asyncio.to_thread(quiet_alertmanager.silence, silence("silenced"))

    async def suppressed() -> Fault | None:
        fault = await fault_on("silenced", quiet_alertmanager)
        return fault if fault is not None and fault.suppressions else None

    fault = await until(suppressed, "the silence")
    (found,) = fault.suppressions
    assert (found.kind, found.by) == (SuppressionKind.SILENCE, "ada: rack move")
    await asyncio.to_thread(quiet_alertmanager.expire, made)

    async def free() -> bool:
        fault = await fault_on("silenced", quiet_alertmanager)
        return fault is not None and not fault.suppressions

    assert await until(free, "the silence to end")


async def test_s06_inhibition_is_seen(quiet_alertmanager: Alertmanager) -> None:
    """An alert inhibited by another of the same node is suppressed; that of another node isn't."""
    posted = [alert(node="inhibited"), alert(node="beside"), alert("UnderRemediation", node="inhibited", fault="x")]
    await asyncio.to_thread(quiet_alertmanager.post_alerts, posted)

    async def suppressed() -> Fault | None:
        fault = await fault_on("inhibited", quiet_alertmanager)
        return fault if fault is not None and fault.suppressions else None

    fault = await until(suppressed, "the inhibition")
    assert [s.kind for s in fault.suppressions] == [SuppressionKind.INHIBITION]
    beside = await fault_on("beside", quiet_alertmanager)
    assert beside is not None
    assert beside.suppressions == ()


async def test_a_resolved_alert_is_no_fault(quiet_alertmanager: Alertmanager) -> None:
    """Once its end has passed an alert is left out of the answer."""
    await asyncio.to_thread(quiet_alertmanager.post_alerts, [alert(node="resolved")])
    await until(lambda: fault_on("resolved", quiet_alertmanager), "the alert")
    await asyncio.to_thread(quiet_alertmanager.post_alerts, [alert(node="resolved", resolved=True)])

    async def gone() -> bool:
        return await fault_on("resolved", quiet_alertmanager) is None

    assert await until(gone, "the alert to go")


async def test_s10_a_fresh_alertmanager_is_settling(quiet_alertmanager: Alertmanager) -> None:
    """Its uptime comes from its own start time; below `settle` it answers but counts as settling."""
    (fresh,) = await ask(quiet_alertmanager.url, settle=timedelta(hours=1))
    (settled,) = await ask(quiet_alertmanager.url)
    assert (fresh.answered, fresh.settling, settled.settling) == (True, True, False)


async def test_s06_peers_fail_one_by_one(stack_of_generation: Stack) -> None:
    """A frozen peer, a dead one and one that is well: each answers for itself, none holds up the others."""
    config = webhook_config("http://127.0.0.1:9/")
    made = [
        await asyncio.to_thread(stack_of_generation.alertmanager, config=config, name=name)
        for name in ("well", "frozen", "dead")
    ]
    well, frozen, dead = made
    await asyncio.to_thread(dead.kill)
    frozen.freeze()

    async def silent() -> tuple[Peer, ...] | None:  # threads stop one after the other, on a busy machine some ms later
        peers = await ask(well.url, frozen.url, dead.url)
        return None if peers[1].answered else peers

    peers = await until(silent, "the freeze")
    frozen.thaw()
    assert [p.answered for p in peers] == [True, False, False]
    assert peers[1].problem == "no response within 2s"
    assert "ClientConnectorError" in peers[2].problem


MATCHERS = (
    ('fault=~".+"', True),
    ('node="case"', True),
    ('node!="case"', False),
    ('node=~"ca"', False),
    ('node=~"ca.*|x"', True),
    ('node!~"ca.*"', False),
    ('rack=""', True),
    ('rack!=""', False),
    ('rack=~".+"', False),
    ('rack!~".+"', True),
    ('rack=~".*"', True),
    ('node=~"(?i)CASE"', True),
    (r'node=~"\\w{4}"', True),
    ('severity!="warning"', True),
    ('zone!="z1"', True),
    (r'node=~"\\pL+"', True),
)
"""Matchers as amtool takes them, and whether one matches the case below."""


async def test_s06_a_silence_matches_as_alertmanager_says(
    quiet_alertmanager: Alertmanager, shared_stack: Stack, amtool_binaries: Mapping[Generation, Server]
) -> None:
    """amtool makes the silences; each matches the labels of an alert exactly when Alertmanager itself suppresses it.

    Afterwards the alert is gone and the silences still match: they stop a case whose alert is away.
    """
    made = alert(node="case")
    await asyncio.to_thread(quiet_alertmanager.post_alerts, [made])
    await until(lambda: fault_on("case", quiet_alertmanager), "the alert")
    assert shared_stack.generation is not None
    binary = amtool_binaries[shared_stack.generation]
    folder = shared_stack.folder
    for index, (matcher, _) in enumerate(MATCHERS):
        said = ("--author", "ada", "--comment", f"m{index}", "--duration", "1h", 'alertname="GPUFellOffBus"', matcher)
        command = binary.command("--alertmanager.url", quiet_alertmanager.url, "silence", "add", *said, folder=folder)
        run = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL)
        assert await run.wait() == 0

    async def all_there() -> Peer | None:
        (peer,) = await ask(quiet_alertmanager.url)
        known = {s.comment for s in peer.silences}
        return peer if {f"m{index}" for index in range(len(MATCHERS))} <= known else None

    peer = await until(all_there, "the silences")
    ours = {s.id: s for s in peer.silences if s.comment.startswith("m")}
    (seen,) = (a for a in peer.alerts if a.labels.get("node") == "case")
    matching = {s.comment for s in ours.values() if silence_matches(s, seen.labels)}
    assert matching == {ours[s].comment for s in seen.silenced_by}
    assert matching == {f"m{index}" for index, (_, wanted) in enumerate(MATCHERS) if wanted}
    await asyncio.to_thread(quiet_alertmanager.post_alerts, [alert(node="case", resolved=True)])

    async def gone() -> Peer | None:
        (peer,) = await ask(quiet_alertmanager.url)
        return None if any(a.labels.get("node") == "case" for a in peer.alerts) else peer

    after = await until(gone, "the alert to go")
    assert {s.comment for s in after.silences if silence_matches(s, seen.labels)} >= matching
    for silence_id in ours:
        await asyncio.to_thread(quiet_alertmanager.expire, silence_id)
