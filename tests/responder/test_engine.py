"""The engine on the simulated fleet: the whole story, and what stops it."""

from __future__ import annotations

from tests.responder.stage import Stage


async def test_a_broken_gpu_is_healed_and_the_node_given_back_exactly() -> None:
    """Taint, condition, drain, reboot, verify, probation, restore, in this order; the node ends as it began."""
    stage = Stage()
    name = stage.names[0]
    stage.sim.workloads.deployment("web", replicas=2, nodes=(name,))
    stage.advance(3)
    before = stage.sim.snapshot(name)
    stage.break_gpu()
    said = await stage.play(until="Done")
    acts = [w for w in said if w.startswith("Act")]
    assert acts == [
        "Act taint",
        "Act condition",
        "Act drain",
        "Act reboot",
        "Act verify",
        "Act probation",
        "Act restore",
    ]
    assert said[-1] == "Done restored"
    assert stage.sim.snapshot(name) == before
    assert len(stage.sim.machines.reboots) == 1
