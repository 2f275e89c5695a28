"""A responder that does what it must not do, so that every rule is seen to break.

It makes raw writes through the gate of the simulated API server, as the leading replica, and never decides anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from tests.chaos import loop
from tests.chaos.ending import Ending
from tests.chaos.observer import TAINT, UNDO, Violation
from tests.chaos.world import Setup

from gpuheal_lab.fleet.injection import ACTOR
from gpuheal_lab.fleet.objects import Json, put_taint, remove_taint
from gpuheal_lab.fleet.workload import Evicted

Story = Callable[["Rogue"], Awaitable[None]]


class Idle:
    """An engine that looks and does nothing."""

    async def round(self) -> tuple[()]:
        """Do nothing."""
        return ()


class Rogue(Ending):
    """A world whose leader does only what the story makes it do."""

    def idle(self) -> None:
        """Let no replica decide anything by itself."""
        for replica in self.replicas:
            replica.engine = Idle()  # type: ignore[assignment]

    async def calls(self, doing: Callable[[], Awaitable[object]], by: str = "") -> None:
        """Let a replica, by default the leader, look and make a call."""
        actor = by or self.leader
        await self.pass_time(1)
        await self.prometheus.read(self.names)
        self.observer.look(actor)
        token = ACTOR.set(actor)
        try:
            await doing()
        finally:
            ACTOR.reset(token)

    async def acts(
        self, method: str, target: str, effect: Callable[[], object], detail: str = "", by: str = ""
    ) -> None:
        """Let the leader make a call that has this effect."""
        await self.calls(lambda: self.sim.gate.cross(method, target, effect, detail=detail), by)

    async def write(self, node: int, change: Callable[[Json], None], method: str = "mark", by: str = "") -> None:
        """Let the leader write a node."""
        name = self.named(node)
        await self.acts(method, name, lambda: self.sim.api.change_node(name, change), by=by)

    async def contain(self, node: int = 0, by: str = "") -> None:
        """Let the leader contain a node."""
        await self.write(node, contained, by=by)

    async def release(self, node: int = 0) -> None:
        """Let the leader give a node back."""
        await self.write(node, released)

    async def evict(self, node: int = 0) -> None:
        """Let the leader evict every pod of a node."""
        for pod in self.sim.api.pods_on(self.named(node)):
            meta = pod["metadata"]
            namespace, name, uid = meta["namespace"], meta["name"], meta["uid"]

            def effect(namespace: str = namespace, name: str = name, uid: str = uid) -> Evicted:
                return self.sim.workloads.evict(namespace, name, uid).status

            await self.acts("evict", f"{namespace}/{name}", effect, uid)

    async def have_rebooted(self, node: int = 0, operation: str = "op-1") -> None:
        """Let the leader have a node rebooted."""
        name = self.named(node)
        view = await self.sim.cluster.node(name)
        assert view is not None
        await self.calls(lambda: self.sim.machines.reboot(view, operation, "lab"))


def contained(raw: Json) -> None:
    """Put the responder's marks on a raw Node."""
    put_taint(raw, {"key": TAINT, "value": "true", "effect": "NoSchedule"})
    raw["metadata"].setdefault("annotations", {})[UNDO] = "{}"
    raw["spec"]["unschedulable"] = True


def released(raw: Json) -> None:
    """Take them off again, the cordon with them."""
    remove_taint(raw, TAINT)
    raw["metadata"].get("annotations", {}).pop(UNDO, None)
    raw["spec"].pop("unschedulable", None)


def broken_by(story: Story, setup: Setup | None = None) -> list[Violation]:
    """Return what the rogue's story breaks."""

    async def whole(made: loop.VirtualLoop) -> list[Violation]:
        world = Rogue(made, setup or Setup())
        world.idle()
        with world.listening():
            await story(world)
        await asyncio.sleep(0)
        return world.observer.found

    return loop.run(whole)


LONG = 3600
