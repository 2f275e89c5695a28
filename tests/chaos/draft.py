"""A schedule being written, and one act of any kind for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from tests.chaos.schedule import Act, act

STRONG = ("bus", "bus", "gsp", "memory", "dead", "relapse")
METHODS = ("mark", "set_conditions", "evict", "reboot", "lock", "unlock", "create", "save", "publish", "delete")
READS = ("nodes", "node", "pods_on", "lock_of", "list", "lookup", "controls")
ERRORS = ("conflict", "throttled", "server-error", "timeout", "forbidden")
HOUR = 3600


@dataclass(slots=True)
class Draft:
    """A schedule being written: the setup so far, the acts, and which nodes the story is about."""

    rng: Random
    setup: dict[str, Any] = field(default_factory=dict)
    acts: list[Act] = field(default_factory=list)
    here: int = 0
    there: int = 1
    names: int = 0

    def add(self, name: str, /, **arguments: Any) -> None:
        """Append an act."""
        self.acts.append(act(name, **arguments))

    def run(self, fewest: int = 1, most: int = 8, every: int = 0) -> None:
        """Append some looks."""
        self.add("run", rounds=self.rng.randint(fewest, most), every=every or self.rng.choice((1, 2, 2, 5, 10)))

    def one(self, *options: Any) -> Any:
        """Return one of the options."""
        return self.rng.choice(options)

    def maybe(self, chance: float) -> bool:
        """Return True that often."""
        return self.rng.random() < chance

    def name(self) -> str:
        """Return a name that nothing else has."""
        self.names += 1
        return f"app-{self.names}"

    def breaks(self, node: int = -1, fault: str = "") -> None:
        """Append a GPU's fault."""
        where = self.here if node < 0 else node
        self.add("break_gpu", node=where, gpu=self.rng.randrange(2), fault=fault or self.one(*STRONG))
        if self.maybe(0.6):
            self.add("pass_time", seconds=5)

    def node(self) -> int:
        """Return a node: mostly one that the story is about."""
        return self.one(self.here, self.here, self.there, self.rng.randrange(self.setup.get("nodes", 8)))


Acts = Sequence[tuple[str, dict[str, Any]]]


def machines_and_sources(d: Draft, node: int, on: bool) -> Acts:
    """Return what may happen to machines, and to the servers that tell of them."""
    return (
        ("break_gpu", {"node": node, "gpu": d.rng.randrange(2), "fault": d.one(*STRONG, "faint")}),
        ("cure", {"node": node}),
        ("reboot", {"node": node}),
        ("cut_power", {"node": node}),
        ("switch_on", {"node": node}),
        ("hang_at_boot", {"node": node, "on": on}),
        ("swap", {"node": node}),
        ("delete_node", {"node": node}),
        ("rejoin", {"node": node}),
        ("set_prometheus", {"state": d.one("ok", "ok", "away", "blind", "frozen")}),
        ("restart_prometheus", {}),
        ("set_peer", {"peer": d.rng.randrange(2), "state": d.one("ok", "ok", "away", "empty", "settling", "frozen")}),
        ("darken", {"node": node, "on": on}),
        ("delay_alerts", {"seconds": d.one(0, 5, 30)}),
        ("forge", {"node": node, "how": d.one("plain", "foreign", "nobody", "junk")}),
        ("set_watchdog", {"whose": d.one("ours", "foreign", "none")}),
        ("identities", {"sources": d.one(0, 1, 1, 2)}),
        ("witnesses", {"classes": d.one(1, 2)}),
        ("freeze", {"on": on}),
    )


def calls_and_process(d: Draft, node: int, on: bool, error: str) -> Acts:
    """Return how our calls may fail and our process may end."""
    return (
        ("fail", {"method": d.one(*METHODS), "error": error, "times": d.one(1, 2, 5), "applied": d.maybe(0.4)}),
        ("fail", {"method": d.one(*READS), "error": "unseen", "times": d.one(1, 2, 5)}),
        ("provider", {"trouble": d.one("", "refuses", "loses", "forgets")}),
        ("lag", {"what": d.one("", "nodes", "cases")}),
        ("kill", {"crossing": d.rng.randrange(10)}),
        ("crash", {}),
        ("stall", {"crossing": d.rng.randrange(6), "seconds": d.one(5, 30, 300), "lose": d.maybe(0.5)}),
        ("slow", {"crossing": d.rng.randrange(8), "seconds": d.one(5, 10, 60)}),
        ("change_leader", {}),
    )


def people_and_controllers(d: Draft, node: int, on: bool, pool: str, value: str) -> Acts:
    """Return what may be done beside us."""
    return (
        ("deploy", {"name": d.name(), "nodes": sorted({d.here, node}), "minimum": d.one(0, 1, 2)}),
        ("gang", {"name": d.name(), "nodes": sorted({d.here, d.there})}),
        ("pod", {"name": d.name(), "node": node, "protected": d.maybe(0.5)}),
        ("set_operator", {"on": on}),
        ("autoscaler", {"node": node, "on": on}),
        ("foreign_lock", {"node": node, "seconds": d.one(20, 300)}),
        ("foreign_taint", {"node": node}),
        ("foreign_condition", {"node": node}),
        ("cordon", {"node": node}),
        ("uncordon", {"node": node}),
        ("uncordon", {"node": node}),
        ("remove_taint", {"node": node}),
        ("hold", {"node": node, "on": on}),
        ("damage_undo", {"node": node, "how": d.one("cut", "version", "empty")}),
        ("label", {"node": node, "key": pool, "value": value}),
        ("opt_out", {"node": node, "on": on}),
        ("silence", {"node": d.one(node, -1), "on": on}),
        ("pause", {"on": on}),
        ("set_mode", {"mode": d.one("observe", "propose", "enforce")}),
        ("set_policy", {"state": d.one("there", "gone", "renamed", "observe", "propose")}),
        ("approve", {"node": node}),
        ("approve_wrongly", {"node": node}),
        ("delete_case", {"node": node}),
    )


def any_act(d: Draft) -> None:
    """Append one act of any kind, mostly on a node that the story is about."""
    node, on, error = d.node(), d.maybe(0.6), d.one(*ERRORS)
    pool, value = d.one("gpu.health/pool", "example.com/team"), d.one("", "x", "y" * 60)
    options = [
        *machines_and_sources(d, node, on),
        *calls_and_process(d, node, on, error),
        *people_and_controllers(d, node, on, pool, value),
    ]
    name, arguments = d.rng.choice(options)
    d.add(name, **arguments)
