"""Invariants of acting: S13 to S17."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.responder.stage import FAULTS, LADDER, Stage

from gpuheal_lab.fleet import injection
from gpuheal_lab.fleet.machine import fell_off_bus
from gpuheal_responder.actions import SPECS
from gpuheal_responder.config.policies import parse_policies
from gpuheal_responder.core import guards
from gpuheal_responder.core.guards.question import Moment, Question
from gpuheal_responder.core.mode import Mode
from gpuheal_responder.core.opening import open_case
from gpuheal_responder.core.step import Due
from gpuheal_responder.core.undo import Marks
from gpuheal_responder.core.world import Need, World
from gpuheal_responder.errors import ConfigError
from gpuheal_responder.ports import Stored


async def test_s13_all_guards_run_and_all_refusals_are_told() -> None:
    """One bad world is refused by every family at once, in family order; none hides another."""
    stage = Stage(mode="observe")
    name = stage.names[0]
    node = await stage.sim.cluster.node(name)
    assert node is not None
    node = replace(node, labels={**node.labels, "node-role.kubernetes.io/control-plane": ""})
    policy = stage.policies[0]
    drain = next(s for s in policy.steps if s.action == "drain")
    world = World(now=stage.sim.now(), node=node, pods=(), seen=frozenset(Need))
    case = open_case(node, (), policy, world, {})
    found, needs = guards.check(Question(case=case, policy=policy, due=Due(step=drain), world=world))
    assert [r.guard for r in found] == ["signal", "workload", "permission"]
    assert not needs


def test_s13_every_guard_is_asked_at_some_moment_and_every_moment_asks_some() -> None:
    """The table has no dead row, and there is no way past it: whatever a step does, guards stand before it."""
    assert all(guard.moments for guard in guards.GUARDS)
    assert {m for guard in guards.GUARDS for m in guard.moments} == set(Moment)
    assert len({guard.ask for guard in guards.GUARDS}) == len(guards.GUARDS)
    assert {guard.family for guard in guards.GUARDS} == {
        "signal",
        "budget",
        "fleet",
        "history",
        "workload",
        "permission",
    }


@pytest.mark.parametrize(
    ("limits", "path"),
    [
        ({"pool_percent": 50}, "policies[0].limits.pool_percent"),
        ({"attempts": 9}, "policies[0].limits.attempts"),
        ({"cooldown": "1m"}, "policies[0].limits.cooldown"),
        ({"mark_percent": 11}, "policies[0].limits.mark_percent"),
    ],
)
def test_s13_a_policy_may_only_tighten(limits: dict[str, object], path: str) -> None:
    """A looser limit is refused with its path."""
    raw = {
        "policies": [
            {"name": "p", "match": {"faults": ["gpu-fell-off-bus"]}, "limits": limits, "steps": ["taint"]},
        ]
    }
    with pytest.raises(ConfigError) as caught:
        parse_policies(raw, file="p.yaml", actions=SPECS, faults=FAULTS)
    assert caught.value.path == path


async def test_s14_marks_are_budgeted() -> None:
    """Of three nodes that break at once in a pool of eight, one is marked; the others wait for the window."""
    stage = Stage()
    for index in range(3):
        stage.break_gpu(index)
    await stage.play(5)
    marked = {c.target for c in stage.sim.gate.made("mark")}
    assert len(marked) == 1
    assert sum("mark-budget" in w for w in stage.heard.words()) == 2


async def test_s14_one_node_of_a_small_pool_at_a_time_and_the_queue_moves() -> None:
    """Two faulty nodes of a pool of eight are healed one after the other: never two in flight, none blocked."""
    stage = Stage()
    stage.break_gpu(0)
    await stage.play(until="Act condition")
    stage.advance(601)
    stage.break_gpu(1)
    most = 0
    for _ in range(200):
        await stage.round()
        most = max(most, sum(any(a.cure or a.action == "drain" for a in c.attempts) for c in stage.heard.open_cases))
        if len([w for w in stage.heard.words() if w == "Done restored"]) == 2:
            break
        stage.advance()
    assert most == 1
    assert len(stage.sim.machines.reboots) == 2


async def test_s14_two_faults_at_once_in_a_small_pool_do_not_block_each_other() -> None:
    """The second node may not be marked yet; the first is healed all the same, and never two are in flight."""
    stage = Stage()
    stage.break_gpu(0)
    stage.break_gpu(1)
    said = await stage.play(60, until="Done")
    assert "Done restored" in said
    assert len(stage.sim.machines.reboots) == 1


async def test_s14_an_unhealthy_neighbour_counts() -> None:
    """A NotReady node of the same pool uses up the budget of a small pool."""
    stage = Stage()
    stage.sim.fleet[stage.names[5]].cut_power()
    stage.advance(5)
    stage.break_gpu(0)
    said = await stage.play(20)
    assert said[-1] == "Hold drain pool-budget"


FLEET = 40
"""Nodes of one pool: four may be out. Racks have four nodes and zones eight: of each one."""
NEIGHBOUR = 5
"""Another rack of the same zone."""


async def test_s14_of_a_zone_only_rebooting_nodes_count() -> None:
    """A node that a person has cordoned in the same zone, but in another rack, keeps nothing from being healed."""
    stage = Stage(nodes=FLEET)
    neighbour = await stage.sim.cluster.node(stage.names[NEIGHBOUR])
    assert neighbour is not None
    await stage.sim.cluster.mark(neighbour, Marks(taints=(), unschedulable=True, undo=None))
    stage.break_gpu(0)
    said = await stage.play(until="Done")
    assert said[-1] == "Done restored"


async def test_s14_two_nodes_of_a_zone_do_not_reboot_at_once() -> None:
    """Pool and racks have room for both: the second waits for the first, by the budget of the zone."""
    stage = Stage(nodes=FLEET)
    stage.break_gpu(0)
    stage.break_gpu(NEIGHBOUR)
    most = 0
    for _ in range(200):
        await stage.round()
        most = max(most, sum(any(a.cure or a.action == "drain" for a in c.attempts) for c in stage.heard.open_cases))
        if stage.heard.words().count("Done restored") == 2:
            break
        stage.advance()
    assert most == 1
    assert len(stage.sim.machines.reboots) == 2
    assert "Hold drain zone-budget" in stage.heard.words()


async def test_s14_a_silent_kubelet_of_the_zone_counts_as_rebooting() -> None:
    """Nobody knows what a node does that is not heard of; pool and rack have room."""
    stage = Stage(nodes=FLEET)
    stage.sim.fleet[stage.names[NEIGHBOUR]].cut_power()
    for _ in range(120):
        stage.advance()
        silent = await stage.sim.cluster.node(stage.names[NEIGHBOUR])
        assert silent is not None
        if not silent.ready:
            break
    stage.break_gpu(0)
    said = await stage.play(20)
    assert said[-1] == "Hold drain zone-budget"


async def test_s14_the_last_schedulable_node_of_a_pool_needs_a_person() -> None:
    """A pool of one is never emptied unasked."""
    stage = Stage(nodes=1)
    stage.break_gpu()
    said = await stage.play(20)
    assert said[-1] == "Hold drain last-of-pool"


async def test_s15_one_operation_per_node_for_two_faulty_gpus() -> None:
    """Two GPUs of one node are one case, one drain and one reboot."""
    stage = Stage()
    stage.break_gpu(0, 2)
    stage.break_gpu(0, 5)
    await stage.play(until="Done")
    assert len(stage.only_case().faults) == 2
    assert len(stage.sim.machines.reboots) == 1


async def test_s15_attempts_are_bounded_then_people() -> None:
    """With two reboots in the policy but one allowed a day, the second fault calls people."""
    ladder = [*LADDER[:4], {"reboot": {"provider": "lab"}}, *LADDER[4:]]
    stage = Stage(steps=ladder, limits={"attempts": 1})
    stage.break_gpu(fault=fell_off_bus(cured_by=frozenset()))
    said = await stage.play(60)
    assert said[-1] == "Escalate attempts-spent"
    assert len(stage.sim.machines.reboots) == 1


async def test_s15_the_same_cure_waits_for_its_cooldown() -> None:
    """A second reboot comes no sooner than 30 minutes after the first."""
    ladder = [*LADDER[:4], {"reboot": {"provider": "lab", "deadline": "2m"}}, *LADDER[4:]]
    stage = Stage(steps=ladder)
    stage.break_gpu(fault=fell_off_bus(cured_by=frozenset()))
    said = await stage.play(60)
    assert said[-1] == "Hold reboot-2 cooldown"
    stage.advance(1800)
    said = await stage.play(60)
    assert len(stage.sim.machines.reboots) == 2
    assert said[-1] == "Escalate fault-again"


async def test_s15_two_members_of_a_gang_are_not_taken_at_once() -> None:
    """While one node of a gang is in remediation, another node of it is held for that reason, budgets or not."""
    stage = Stage(nodes=64)
    far = 40  # another rack and zone
    stage.sim.workloads.gang("train", size=2, nodes=(stage.names[0], stage.names[far]))
    stage.advance(3)
    stage.break_gpu(0)
    stage.break_gpu(far)
    await stage.play(6)
    drained = [c.node for c in stage.heard.open_cases if c.latest("drain") is not None]
    assert len(drained) == 1
    assert "Hold drain gang-in-flight" in stage.heard.words()


async def test_s16_intent_stands_before_the_call() -> None:
    """When the reboot is asked for, the store already says that we intend to."""
    stage = Stage()
    stage.break_gpu()
    await stage.play(until="Act reboot")
    order = [c.method for c in stage.sim.gate.calls if c.method in {"save", "reboot", "create"}]
    assert order.index("reboot") > order.index("save")
    attempt = stage.only_case().latest("reboot")
    assert attempt is not None
    assert attempt.operation == stage.sim.machines.reboots[0][1]


async def test_s16_a_lost_answer_is_looked_up_not_repeated() -> None:
    """A reboot call that took effect but whose answer was lost is found again under its operation id."""
    stage = Stage()
    stage.break_gpu()
    stage.sim.gate.fail_next("reboot", injection.timeout(), applied=True)
    said = await stage.play(until="Done")
    assert said[-1] == "Done restored"
    assert len(stage.sim.machines.reboots) == 1
    assert len(stage.sim.gate.made("reboot")) == 1


async def test_s16_an_outcome_nobody_knows_goes_to_people() -> None:
    """A provider that cannot tell whether it got the call is not asked again."""
    stage = Stage()
    stage.break_gpu()
    stage.sim.gate.fail_next("reboot", injection.timeout())
    stage.sim.machines.forgets = True
    said = await stage.play(30)
    assert said[-1] == "Escalate outcome-unknown"
    assert stage.sim.machines.reboots == []


async def test_s16_a_stale_executor_loses_the_compare_and_swap() -> None:
    """Whoever saves a case at an old version is refused, before anything disruptive is called."""
    stage = Stage()
    stage.break_gpu()
    await stage.play(until="Act condition")
    (stored,) = await stage.sim.remediations.list()
    stage.sim.gate.fail_next("save", injection.conflict())
    await stage.round()
    assert stage.sim.machines.reboots == []
    assert isinstance(stored, Stored)
    assert (await stage.play(until="Done"))[-1] == "Done restored"


async def test_s17_observe_writes_nothing_but_the_remediation() -> None:
    """In observe mode the only changing calls are those on the Remediation."""
    stage = Stage(mode="observe")
    before = stage.sim.snapshot(stage.names[0])
    stage.break_gpu()
    said = await stage.play(20)
    assert said == ["Hold taint mode-observe"]
    assert {c.method for c in stage.sim.gate.calls} == {"create"}
    stage.latch.latched.clear()
    stage.sim.fleet[stage.names[0]].cure("reboot")
    said = await stage.play(15)
    assert said[-1] == "Done cleared"
    stage.advance(2)
    assert stage.sim.snapshot(stage.names[0]) == before


async def test_s17_the_mode_cap_of_the_controls_holds_an_enforcing_policy() -> None:
    """People can cap every policy at run time."""
    stage = Stage()
    stage.cap(mode=Mode.OBSERVE)
    stage.break_gpu()
    assert await stage.play(5) == ["Hold taint mode-observe"]


def test_s17_the_default_mode_is_observe() -> None:
    """A policy that says nothing only looks."""
    raw = {"policies": [{"name": "p", "match": {"faults": ["gpu-fell-off-bus"]}, "steps": ["taint"]}]}
    (policy,) = parse_policies(raw, file="p.yaml", actions=SPECS, faults=FAULTS)
    assert policy.mode is Mode.OBSERVE
