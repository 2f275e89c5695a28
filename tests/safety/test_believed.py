"""What is believed of a node: S08 (well or not), S11 and S14 (alone or not), S16, S18 and S21 (whose act it was)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from tests.responder.stage import FAULTS, LADDER, PlayedEvidence, Stage

from gpuheal_lab.fleet import injection
from gpuheal_responder.actions import SPECS
from gpuheal_responder.commands.revert import revert
from gpuheal_responder.config.policies import parse_policies
from gpuheal_responder.core.case import Result
from gpuheal_responder.core.policy import Policy
from gpuheal_responder.core.sighting import Evidence, Identity
from gpuheal_responder.core.undo import HOLD_ANNOTATION, TAINT_KEY
from gpuheal_responder.errors import Permanent

OBSERVED = ["taint", "condition", {"verify": {"evaluations": 3, "deadline": "2m"}}, "restore"]
NODE_FAULT = "nvswitch-fatal"
TWICE = [*LADDER[:4], LADDER[3], *LADDER[4:]]


def policies_of(*raw: Mapping[str, object]) -> tuple[Policy, ...]:
    """Return the policies of a file."""
    return parse_policies({"policies": list(raw)}, file="test.yaml", actions=SPECS, faults=FAULTS | {NODE_FAULT})


def policy(*faults: str, **match: object) -> Mapping[str, object]:
    """Return a policy that contains, proves and gives back."""
    return {"name": "p", "mode": "enforce", "match": {"faults": list(faults), **match}, "steps": OBSERVED}


def break_policy(stage: Stage) -> None:
    """Take the fault off the policy."""
    stage.policies = policies_of(policy("gpu-fell-off-bus"))


def break_label(stage: Stage) -> None:
    """Take the label away that the policy selects by."""
    stage.sim.edit(stage.names[0], lambda raw: raw["metadata"]["labels"].pop("tier"))


def break_alertmanager(stage: Stage) -> None:
    """Let no Alertmanager answer."""
    stage.alerts.answers = False


def empty_alertmanager(stage: Stage) -> None:
    """Let Alertmanager have lost what it knew."""
    stage.alerts.mute, stage.alerts.extra = True, ()


@pytest.mark.parametrize("away", [break_policy, break_label, break_alertmanager, empty_alertmanager])
async def test_s08_a_fault_that_is_witnessed_is_there_whoever_names_it_no_more(away: Any) -> None:
    """A node whose fault is seen by two classes is not given back when policy, label or Alertmanager let go of it."""
    stage = Stage(more_faults=(NODE_FAULT,))
    for name in stage.names:
        stage.sim.edit(name, lambda raw: raw["metadata"]["labels"].__setitem__("tier", "gold"))
    stage.policies = policies_of(policy("gpu-fell-off-bus", NODE_FAULT, nodes={"matchLabels": {"tier": "gold"}}))
    stage.advance(3)
    name = stage.ail(NODE_FAULT)
    await stage.play(10)
    away(stage)
    await stage.play(60)
    assert (await stage.sim.cluster.node(name)).record is not None
    stage.evidence.more.clear()
    stage.alerts.answers = True
    stage.alerts.extra = ()
    assert (await stage.play(60, until="Done"))[-1] == "Done restored", "it is given back once nobody sees the fault"


async def test_s08_a_gpu_whose_neighbours_moved_up_is_not_exchanged() -> None:
    """A card that does not come back leaves its address to the next one; it has to be proven all the same."""
    stage = Stage()
    name = stage.names[0]
    gpus = [gpu.uuid for gpu in stage.sim.fleet[name].spec.gpus]
    lost: list[str] = []

    class Renumbered(PlayedEvidence):
        def _of(self, node: str) -> Evidence:
            found = super()._of(node)
            here = [gpu for gpu in gpus if gpu not in lost]
            places = tuple(
                Identity(gpu_uuid=gpu, source=source, slot=f"0000:{16 + place:02x}:00")
                for place, gpu in enumerate(here)
                for source in ("exporter", "dcgm")
            )
            health = tuple(h for h in found.health if h.gpu_uuid not in lost)
            return replace(found, identities=places, health=health) if node == name else found

    def dra(raw: dict[str, Any]) -> None:
        for amount in ("capacity", "allocatable"):
            raw["status"][amount] = {k: v for k, v in raw["status"][amount].items() if not k.startswith("nvidia.com")}

    stage.evidence = Renumbered(stage)
    stage.boot()
    stage.sim.edit(name, dra)
    stage.advance(3)
    stage.break_gpu(0, 3)
    await stage.play(100, until="Act reboot")
    lost.append(gpus[3])
    for _ in range(300):
        await stage.round()
        stage.advance()
        stage.sim.edit(name, dra)
    assert (await stage.sim.cluster.node(name)).record is not None
    assert stage.heard.words()[-1] == "Escalate verify-deadline"


async def test_s18_a_revert_after_a_restore_that_failed_is_a_persons() -> None:
    """A restore that met an error and was overtaken by a relapse did not take the marks off: whoever did wins."""
    stage = Stage()
    stage.advance(3)
    name = stage.break_gpu()
    await stage.play(400, until="Act reboot")
    stage.sim.gate.fail_next("set_conditions", injection.server_error(), times=1)
    await stage.play(400, until="Act restore")
    stage.break_gpu(0, 4)
    await stage.play(80)  # long enough for the person to have heard of it
    assert stage.heard.words()[-1].startswith("Escalate")
    await revert(stage.sim.cluster, [name])
    await stage.play(60)
    assert stage.only_case().result is Result.REVERTED
    assert (await stage.sim.cluster.node(name)).record is None, "their node is not contained again"


async def test_s18_a_taint_that_people_made_stronger_is_still_ours() -> None:
    """NoExecute in place of NoSchedule takes nothing back; after the proof nothing of our key is left."""
    stage = Stage()
    stage.advance(3)
    name = stage.break_gpu()
    await stage.play(20, until="Act condition")
    stronger = {"key": TAINT_KEY, "value": "true", "effect": "NoExecute"}
    stage.sim.edit(name, lambda raw: raw["spec"].__setitem__("taints", [stronger]))
    assert (await stage.play(400, until="Done"))[-1] == "Done restored"
    assert (await stage.sim.cluster.node(name)).taints == ()


async def test_s21_a_reboot_by_others_after_a_cure_of_ours_failed_is_looked_at() -> None:
    """What a person's reboot cured while our second attempt waits for its cooldown is not rebooted once more."""
    stage = Stage(steps=TWICE)
    stage.advance(3)
    stage.sim.gate.fail_next("reboot", Permanent("rejected", "denied by an admission webhook"), times=1)
    name = stage.break_gpu()
    await stage.play(200, until="Hold reboot-2 cooldown")
    stage.sim.fleet[name].reboot()
    stage.advance(30)
    assert (await stage.play(200, until="Done"))[-1] == "Done restored"
    stage.advance(3600)
    await stage.play(5)
    assert stage.sim.machines.reboots == []


@pytest.mark.parametrize("how", ["taken back", "held", "paused"])
async def test_s07_what_people_do_while_the_intent_is_stored_is_heard(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the decision and the reboot lie three writes, each of which may take its time."""
    stage = Stage()
    stage.advance(3)
    name = stage.break_gpu()
    kind = type(stage.sim.remediations)
    save, slow = kind.save, []

    def act(raw: dict[str, Any]) -> None:
        if how == "held":
            raw["metadata"]["annotations"][HOLD_ANNOTATION] = "ann: mine"
        elif how == "taken back":
            raw["spec"].pop("taints", None)
            raw["spec"].pop("unschedulable", None)

    async def saved(self: Any, stored: Any, decision: Any) -> Any:
        done = await save(self, stored, decision)
        if not slow and any(a.action == "reboot" and a.open for a in stored.case.attempts):
            slow.append(True)
            stage.sim.edit(name, act)
            if how == "paused":
                stage.cap(paused="ann: stop")
        return done

    monkeypatch.setattr(kind, "save", saved)
    await stage.play(60)
    assert slow
    assert stage.sim.machines.reboots == []


def in_one_leaf(stage: Stage, count: int = 3) -> list[int]:
    """Return nodes of as many racks, put into one leaf."""
    racks: dict[str, int] = {}
    for index, name in enumerate(stage.names):
        labels = stage.sim.raw(name)["metadata"]["labels"]
        racks.setdefault(labels.get("gpu.health/rack") or labels["topology.kubernetes.io/rack"], index)
    members = list(racks.values())[:count]
    for index in members:
        stage.sim.edit(stage.names[index], lambda raw: raw["metadata"]["labels"].__setitem__("gpu.health/leaf", "l7"))
    return members


async def test_s11_an_older_case_of_the_same_fault_hides_no_burst() -> None:
    """A node counts with the GPU that fell now, not only with the one that fell half an hour ago."""
    stage = Stage(nodes=64)
    stage.advance(3)
    members = in_one_leaf(stage)
    first = stage.names[members[0]]
    stage.sim.edit(first, lambda raw: raw["metadata"]["annotations"].__setitem__(HOLD_ANNOTATION, "ann"))
    stage.break_gpu(members[0], 0)
    await stage.play(3)
    stage.advance(1800)
    for index in members:
        stage.break_gpu(index, 5)
    await stage.play(60)
    assert [(i.where, i.nodes) for i in stage.heard.incidents] == [("leaf/l7", 3)]
    assert stage.sim.machines.reboots == []


async def test_s11_a_release_is_about_what_had_begun_when_it_was_written() -> None:
    """Weeks later the same domain may burst again, and nobody has looked at that."""
    stage = Stage(nodes=64)
    stage.advance(3)
    stage.cap(released=("leaf/l7",), released_at=stage.sim.now())
    stage.advance(60)
    for index in in_one_leaf(stage):
        stage.break_gpu(index)
    await stage.play(60)
    assert [i.where for i in stage.heard.incidents] == ["leaf/l7"]
    assert stage.sim.machines.reboots == []
    stage.cap(released_at=stage.sim.now())
    await stage.play(300, until="Act reboot")
    assert stage.sim.machines.reboots


@pytest.mark.parametrize("who", ["ours", "another's", "of the whole pool"])
async def test_s14_a_node_that_takes_no_pods_is_no_other_node_of_the_pool(who: str) -> None:
    """Of two nodes the one that is left must be schedulable: a taint keeps pods off whether or not it is cordoned."""
    stage = Stage(nodes=2, steps=[{"taint": {"cordon": False}}, *LADDER[1:]])
    taint = {"key": TAINT_KEY if who == "ours" else "maintenance", "effect": "NoSchedule"}
    for name in stage.names if who == "of the whole pool" else stage.names[1:]:
        stage.sim.edit(name, lambda raw: raw["spec"].__setitem__("taints", [taint]))
    stage.advance(3)
    stage.break_gpu(0)
    if who == "ours":
        stage.sim.edit(stage.names[1], lambda raw: raw["spec"].pop("taints"))
        stage.cap(frozen="no watchdog")  # both are contained, one after the other, and wait
        await stage.play(5)
        stage.advance(700)
        stage.break_gpu(1)
        await stage.play(5)
        assert all(node.record is not None for node in (await stage.sim.cluster.nodes()).values())
        stage.cap(frozen="")
    await stage.play(60)
    if who == "of the whole pool":
        assert stage.sim.machines.reboots
    else:
        assert stage.sim.machines.reboots == []
        assert any(word.endswith("last-of-pool") for word in stage.heard.words())
