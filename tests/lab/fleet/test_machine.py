"""Simulated machines break, reboot and are cured, and their nodes show it."""

from __future__ import annotations

from datetime import timedelta

import pytest

from gpuheal_lab.fleet.clock import ManualClock, Schedule
from gpuheal_lab.fleet.cluster import Simulation
from gpuheal_lab.fleet.machine import fell_off_bus
from gpuheal_lab.fleet.spec import fleet
from gpuheal_responder.core.world import OperationState

ONE = "gpu-node-001"
SECOND = timedelta(seconds=1)


def simulation(nodes: int = 2) -> Simulation:
    return Simulation(fleet(nodes, 8))


async def test_broken_gpu_is_in_the_kernel_log_and_no_longer_allocatable() -> None:
    """Xid 79 leaves one kernel line with the GPU's own address, and the device plugin takes the GPU out."""
    sim = simulation()
    gpu = sim.specs[ONE].gpus[3]
    sim.break_gpu(ONE, 3, fell_off_bus())
    (line,) = sim.fleet[ONE].lines
    assert f"Xid (PCI:{gpu.kernel_address}): 79" in line.text
    sim.advance(SECOND)
    node = await sim.cluster.node(ONE)
    assert node is not None
    assert (node.gpu_capacity, node.gpu_allocatable) == (8, 7)


async def test_reboot_changes_the_boot_id_and_cures() -> None:
    """On the way the node is not Ready and tainted by Kubernetes; at the end only the boot id differs from before."""
    sim = simulation()
    before, raw = sim.snapshot(ONE), sim.raw(ONE)
    sim.break_gpu(ONE, 3, fell_off_bus())
    sim.advance(SECOND)
    node = await sim.cluster.node(ONE)
    assert node is not None
    await sim.machines.reboot(node, "op-1", "lab")
    sim.advance(3 * SECOND)
    down = await sim.cluster.node(ONE)
    assert down is not None
    assert not down.ready
    assert {t.key for t in down.taints} == {"node.kubernetes.io/unreachable"}
    assert down.boot_id == node.boot_id
    sim.settle()
    after = await sim.cluster.node(ONE)
    assert after is not None
    assert after.ready
    assert after.gpu_allocatable == 8
    assert after.boot_id != node.boot_id
    assert sim.fleet[ONE].lines == []
    assert sim.snapshot(ONE) == before
    assert sim.raw(ONE)["status"]["nodeInfo"]["bootID"] != raw["status"]["nodeInfo"]["bootID"]
    assert [e.reason for e in sim.api.events(ONE)] == ["Rebooted"]


async def test_same_operation_reboots_once() -> None:
    """Asking again with the same id does nothing more; the operation is known, another id is not."""
    sim = simulation()
    node = await sim.cluster.node(ONE)
    assert node is not None
    for _ in range(3):
        await sim.machines.reboot(node, "op-1", "lab")
        sim.settle()
    assert sim.fleet[ONE].boots == 2
    assert sim.machines.reboots == [(ONE, "op-1")]
    assert await sim.machines.lookup(node, "op-1", "lab") is OperationState.ACCEPTED
    assert await sim.machines.lookup(node, "op-2", "lab") is OperationState.NOT_FOUND


async def test_provider_can_refuse_lose_and_forget() -> None:
    """A refused call is FAILED, a lost one NOT_FOUND, a forgetful provider UNKNOWABLE; the machine stays as it is."""
    sim = simulation()
    node = await sim.cluster.node(ONE)
    assert node is not None
    sim.machines.loses_calls = True
    await sim.machines.reboot(node, "op-1", "lab")
    assert await sim.machines.lookup(node, "op-1", "lab") is OperationState.NOT_FOUND
    sim.machines.loses_calls, sim.machines.refuses = False, True
    await sim.machines.reboot(node, "op-2", "lab")
    assert await sim.machines.lookup(node, "op-2", "lab") is OperationState.FAILED
    sim.machines.forgets = True
    assert await sim.machines.lookup(node, "op-2", "lab") is OperationState.UNKNOWABLE
    sim.settle()
    assert sim.fleet[ONE].boots == 1


async def test_fault_that_a_reboot_does_not_cure_is_back_after_it() -> None:
    """The kernel of the next boot logs the same Xid again, and the GPU stays out."""
    sim = simulation()
    sim.break_gpu(ONE, 3, fell_off_bus(cured_by=frozenset({"replace"})))
    node = await sim.cluster.node(ONE)
    assert node is not None
    await sim.machines.reboot(node, "op-1", "lab")
    sim.settle()
    assert [": 79," in line.text for line in sim.fleet[ONE].lines] == [True]
    after = await sim.cluster.node(ONE)
    assert after is not None
    assert (after.ready, after.gpu_allocatable) == (True, 7)


async def test_cure_that_does_not_last_relapses_once() -> None:
    """The GPU is well after the reboot and broken again after the given time."""
    sim = simulation()
    sim.break_gpu(ONE, 3, fell_off_bus(relapse_after=timedelta(minutes=2)))
    sim.fleet[ONE].reboot()
    sim.advance(timedelta(minutes=1))
    well = await sim.cluster.node(ONE)
    assert well is not None
    assert well.gpu_allocatable == 8
    sim.advance(timedelta(minutes=2))
    ill = await sim.cluster.node(ONE)
    assert ill is not None
    assert ill.gpu_allocatable == 7
    assert len(sim.fleet[ONE].lines) == 1


async def test_machine_that_hangs_at_boot_stays_down() -> None:
    """A machine told to hang never comes back, and its node stays Unknown."""
    sim = simulation()
    sim.fleet[ONE].hang_at_boot = True
    sim.fleet[ONE].reboot()
    sim.advance(timedelta(hours=1))
    node = await sim.cluster.node(ONE)
    assert node is not None
    assert not node.ready
    assert not sim.running(ONE)


async def test_pod_on_a_dead_machine_goes_only_when_its_kubelet_is_back() -> None:
    """An evicted pod of a machine without power stays terminating until the machine boots."""
    sim = simulation()
    sim.workloads.bare_pod("solo", node=ONE)
    sim.fleet[ONE].cut_power()
    (pod,) = await sim.cluster.pods_on(ONE)
    await sim.cluster.evict(pod)
    sim.advance(timedelta(minutes=30))
    assert [p.terminating for p in await sim.cluster.pods_on(ONE)] == [True]
    sim.fleet[ONE].switch_on()
    sim.settle()
    assert await sim.cluster.pods_on(ONE) == ()


def test_every_gpu_of_a_large_fleet_has_a_name_of_its_own() -> None:
    """1,000 nodes × 8 GPUs: UUIDs, serials and system UUIDs are all different, and the same in the next run."""
    specs = fleet(1000, 8)
    gpus = [gpu for spec in specs for gpu in spec.gpus]
    assert len({g.uuid for g in gpus}) == len({g.serial for g in gpus}) == 8000
    assert len({s.system_uuid for s in specs}) == len({s.name for s in specs}) == 1000
    assert specs == fleet(1000, 8)


def test_events_run_at_their_own_time_in_order() -> None:
    """What is due is run oldest first, sees its own due time, and what it schedules counts from there."""
    clock = ManualClock()
    schedule = Schedule(clock)
    start = clock.now()
    seen: list[tuple[str, timedelta]] = []

    def note(name: str) -> None:
        seen.append((name, schedule.now() - start))

    def first() -> None:
        note("first")
        schedule.after(SECOND / 2, lambda: note("between"))

    schedule.after(2 * SECOND, lambda: note("later"))
    schedule.after(SECOND, first)
    clock.move(timedelta(minutes=1))
    assert seen == []
    schedule.catch_up()
    assert seen == [("first", SECOND), ("between", 1.5 * SECOND), ("later", 2 * SECOND)]


def test_time_does_not_go_back() -> None:
    """A clock refuses to be moved into the past."""
    with pytest.raises(ValueError, match="back"):
        ManualClock().move(-SECOND)
