"""What must hold at every call of the responder. Each rule is named after its invariant of the safety list."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from gpuheal_lab.fleet.injection import Call
from gpuheal_lab.fleet.objects import Json, is_ready, pod_over

if TYPE_CHECKING:
    from tests.chaos.observer import Illness, Observer

FRESH = timedelta(seconds=150)
"""Two minutes, after which evidence is stale, and a look."""
LONG = timedelta(minutes=1)
"""After so long what people said holds for a step that was decided before as well."""
UNHEARD = timedelta(seconds=65)
"""A minute and an evaluation: with a node nobody takes back a fault of which they cannot have heard."""
WINDOW = timedelta(minutes=10)
DAY = timedelta(hours=24)
BURSTS = {"rack": (3, 0.0), "pool": (5, 0.2)}
"""So many nodes, and more than this share, with one fault within the window are a fleet event, not faults of nodes."""
EVERYTHING = frozenset({"paused", "mode-observe", "held"})
BEGINNING = frozenset({"silenced", "opted-out"})
DISRUPTION = frozenset({"frozen", "locked", "policy-gone"})
STARTING = frozenset({"unproven", "unconfirmed"})
"""What keeps a first disruptive step from beginning; later ones of the same case go on."""
ENGINE = "responder"
OUR_PREFIX = "gpu.health/"
PLACES = frozenset({"gpu.health/pool", "gpu.health/rack", "gpu.health/fabric-domain", "gpu.health/ignore"})


class Judge:
    """Asks the rules of what the responder has just done; broken ones go to the observer."""

    def __init__(self, observer: Observer) -> None:
        self._seen = observer

    @property
    def now(self) -> datetime:
        """The truth's time."""
        return self._seen.world.truth_now()

    def called(self, call: Call) -> None:
        """Whoever does not lead changes nothing; a call on its way when its sender lost the Lease is excused."""
        leads = call.actor == self._seen.world.leader
        if not leads and call.actor in self._seen.world.processes and not call.hung and call.method != "publish":
            node = call.target if call.target in self._seen.nodes else ""
            self._seen.broken(
                "S22-not-leader", node, f"{call.actor} made {call.method} of {call.target} without the Lease"
            )

    def written(self, name: str, old: Json, new: Json, call: Call) -> None:
        """Only what is ours is written, and only a cordon of ours is lifted."""
        told = self._seen.told(name)
        lifted = bool(old["spec"].get("unschedulable")) and not new["spec"].get("unschedulable")
        if lifted and told.cordon_by != ENGINE:
            self._seen.broken(
                "S18-foreign-undone", name, f"lifted a cordon of {told.cordon_by or 'somebody before us'}"
            )
        for what, before, after in (
            ("taints", _foreign_taints(old), _foreign_taints(new)),
            ("labels", _foreign(old, "labels"), _foreign(new, "labels")),
            ("annotations", _foreign(old, "annotations"), _foreign(new, "annotations")),
            ("conditions", _foreign_conditions(old), _foreign_conditions(new)),
        ):
            if before != after:
                self._seen.broken(
                    "S18-foreign-undone", name, f"{call.method} changed {what} of others: {before} -> {after}"
                )

    def contained(self, name: str, call: Call) -> None:
        """A node is contained for a fault that its machine has or had, within the budget, and against nobody's will."""
        self._stopped("contained", name, call, EVERYTHING | BEGINNING)
        self._taken("contained", name, call)
        world = self._seen.world
        machine = world.sim.fleet[name]
        if not self._seen.was_sick(name) and self.now - machine.booted_at > LONG:
            self._seen.broken("S06-contained-well", name, "its machine has had no fault since it booted")
        pool = world.peers_of(name, "pool")
        recent = {
            n for at, n, uid in self._seen.marks if self.now - at < WINDOW and n in pool and world.uid_of(n) == uid
        }
        limit = _allowed(world.limits.mark_percent, len(pool) + 1)
        if len(recent) + 1 > limit and not world.clock.wrong(call.actor):
            self._seen.broken("S14-mark-budget", name, f"{len(recent)} others contained within 10m, {limit} may be")

    def released(self, name: str, call: Call) -> None:
        """A node is given back on proof, or because a person took it back."""
        told = self._seen.told(name)
        taken = told.takeback
        if max(told.uncordoned, taken.number if taken is not None else 0) > told.contained_number:
            return
        self._stopped("given back", name, call, EVERYTHING | {"frozen"})
        if call.hung:
            return
        for illness in self._seen.sick(name):
            if taken is not None and illness.news <= taken.at:
                continue
            if illness.shown is not None or self.now - illness.news > FRESH:
                text = f"a GPU is sick since {illness.began:%H:%M:%S}, " + (
                    "and was shown" if illness.shown else "unseen"
                )
                self._seen.broken("S08-restored-sick", name, text)

    def evicted(self, node: str, pod: Json, call: Call) -> None:
        """Only pods that may go are evicted, from contained nodes, while nobody forbids it."""
        told = self._seen.told(node)
        ref = f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
        going_on = told.evicting
        self._stopped(
            "evicted from", node, call, EVERYTHING - {"held"} if going_on else EVERYTHING | BEGINNING | DISRUPTION
        )
        self._taken("evicted from", node, call)
        protected = self._seen.world.protected.get(ref)
        if protected is not None and protected < self._looked(call):
            self._seen.broken("S19-protected", node, f"evicted {ref}, which is protected")
        if any(o["kind"] == "DaemonSet" for o in pod["metadata"].get("ownerReferences", ())):
            self._seen.broken("S19-protected", node, f"evicted {ref} of a DaemonSet")
        if told.contained is None:
            self._seen.broken("S16-not-contained", node, f"evicted {ref} from a node that is not contained")

    def rebooted(self, call: Call) -> None:
        """A machine is rebooted for a fault of this boot, empty, a bounded number of times, one operation each."""
        node, world = call.target, self._seen.world
        machine = world.sim.fleet.get(node)
        self._stopped("rebooted", node, call, EVERYTHING | BEGINNING | DISRUPTION)
        self._taken("rebooted", node, call)
        self._approved(node, call)
        provider, operation = call.detail.split()
        if self._seen.asked.setdefault(operation, provider) != provider:
            self._seen.broken("S16-operation-repeats", node, f"{operation} was asked of another provider before")
        if machine is None:
            return
        before = self._seen.operations.setdefault(operation, machine.boot_id)
        if before != machine.boot_id:
            self._seen.broken("S16-operation-repeats", node, f"{operation} was asked for in an earlier boot")
        if not world.rebooting_by(operation):
            return
        if not self._seen.was_sick(node):
            self._seen.broken("S09-rebooted-well", node, "its machine has had no fault since it booted")
        self._often(node, machine.spec.system_uuid)
        self._seen.boots.append((self.now, machine.spec.system_uuid, operation))
        self._empty(node, call)

    def _often(self, node: str, machine: str) -> None:
        limits = self._seen.world.limits
        mine = [
            at for at, uid, _ in self._seen.boots if uid == machine and self.now - at < min(DAY, limits.attempts_window)
        ]
        if len(mine) + 1 > limits.attempts:
            self._seen.broken("S15-attempts", node, f"reboot {len(mine) + 1} within 24h, {limits.attempts} may be")
        elif mine and self.now - max(mine) < limits.cooldown:
            self._seen.broken("S15-cooldown", node, f"the last reboot began {self.now - max(mine)} ago")

    def _empty(self, node: str, call: Call) -> None:
        looked = self._looked(call)
        for pod in self._seen.world.sim.api.pods_on(node):
            ref = f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
            daemon = any(o["kind"] == "DaemonSet" for o in pod["metadata"].get("ownerReferences", ()))
            if daemon or pod_over(pod) or self._seen.world.bound.get(pod["metadata"]["uid"], 0) >= looked:
                continue
            rule = "S19-protected" if ref in self._seen.world.protected else "S19-not-empty"
            self._seen.broken(rule, node, f"rebooted while {ref} ran there")

    def begun(self, node: str, call: Call) -> None:
        """The first disruptive call on a node: budgets, gangs, approvals, bursts, control planes."""
        world, looked = self._seen.world, self._looked(call)
        self._stopped("disrupted", node, call, STARTING)
        if "node-role.kubernetes.io/control-plane" in self._seen.raw[node]["metadata"]["labels"]:
            self._seen.broken("S19-control-plane", node, f"{call.method} on a control-plane node")
        self._approved(node, call)
        for dimension, percent in (("pool", world.limits.pool_percent), ("rack", world.limits.rack_percent)):
            peers = world.peers_of(node, dimension)
            out = [n for n in peers if self._out(n, looked)]
            limit = _allowed(percent, len(peers) + 1)
            if len(out) + 1 > limit:
                text = f"{', '.join(out)} of its {dimension} are out, {limit} at once may be"
                self._seen.broken(f"S14-{dimension}-budget", node, text)
        pool = world.peers_of(node, "pool")
        if not any(self._takes_pods(n, looked) for n in pool) and node not in world.approved:
            self._seen.broken(
                "S14-last-of-pool", node, "no other node of its pool is schedulable, and nobody has approved"
            )
        gangs = world.gangs_on(node)
        for other, told in self._seen.nodes.items():
            shared = gangs & told.gangs
            if other != node and told.disrupted is not None and shared and not _taken_back(told):
                self._seen.broken("S15-gang", node, f"{other} is in flight too, and both hold {', '.join(shared)}")
        self._burst(node, looked)

    def _approved(self, node: str, call: Call) -> None:
        world = self._seen.world
        asks = world.asks and world.asks_since < self._looked(call)
        if asks and node not in world.approved and not call.hung:
            self._seen.broken("S17-unapproved", node, f"{call.method} in mode propose, and nobody has approved")

    def _out(self, node: str, looked: int) -> bool:
        told, raw = self._seen.told(node), self._seen.raw.get(node)
        if raw is None or self._seen.world.lagging:
            return False
        if told.disrupted is not None and not _taken_back(told):
            return True
        foreign = bool(raw["spec"].get("unschedulable")) and told.cordon_by != ENGINE and told.cordon_number < looked
        return foreign or (not is_ready(raw) and told.ready_number < looked)

    def _takes_pods(self, node: str, looked: int) -> bool:
        told, raw = self._seen.told(node), self._seen.raw.get(node)
        if raw is None:
            return False
        recent = max(told.cordon_number, told.ready_number) >= looked or self._seen.world.lagging
        return recent or (is_ready(raw) and not raw["spec"].get("unschedulable"))

    def _burst(self, node: str, looked: int) -> None:
        """No ladder is climbed for one fault on many nodes of a rack or a pool at once, this node among them."""
        uid = self._seen.world.machine_of(node)
        mine = {k[2] for k, i in self._seen.ill.items() if k[0] == uid and self._in_burst(i, looked)}
        for dimension, (least, share) in BURSTS.items():
            peers = {node, *self._seen.world.peers_of(node, dimension)}
            many: dict[str, set[str]] = {}
            for (machine, _gpu, slug), illness in self._seen.ill.items():
                name = self._seen.world.node_of(machine)
                if name in peers and self._in_burst(illness, looked):
                    many.setdefault(slug, set()).add(name)
            ill = max((many[slug] for slug in mine if slug in many), key=len, default=set())
            if len(ill) >= least and len(ill) > share * len(peers):
                text = f"{len(ill)} of {len(peers)} nodes of its {dimension} fell sick within 10m: a fleet event"
                self._seen.broken(f"S11-burst-{dimension}", node, text)

    def _in_burst(self, illness: Illness, looked: int) -> bool:
        seen = illness.shown is not None and illness.shown < looked
        return illness.ended is None and seen and self.now - illness.began < WINDOW

    def _looked(self, call: Call) -> int:
        """Return when the actor had looked before it decided on the call; a step that waited had decided before."""
        number, until = self._seen.slowed.get(call.actor, (0, None))
        if until is not None and self.now < until:
            return number
        return self._seen.looks.get(call.actor, 0)

    def _stopped(self, verb: str, node: str, call: Call, kinds: frozenset[str]) -> None:
        if call.hung:
            return
        for (kind, where), stop in self._seen.stops.items():
            if kind not in kinds or where not in {"", node}:
                continue
            if stop.number < self._looked(call) or call.asked_at - stop.at > LONG:
                self._seen.broken(
                    f"S07-against-{kind}", node, f"{verb} {node} although {kind} since {stop.at:%H:%M:%S}"
                )

    def _taken(self, verb: str, node: str, call: Call) -> None:
        taken = self._seen.told(node).takeback
        if taken is None or call.hung or taken.number >= self._looked(call):
            return
        marked = max((at for at, name, _ in self._seen.marks if name == node and at < taken.at), default=taken.at)
        news = [
            i
            for i in self._seen.sick(node)
            if i.news > taken.looked_at
            or i.shown is None
            or i.shown > taken.number
            or max(marked, taken.at - UNHEARD) < (i.began if call.actor == taken.looked_by else i.news)
        ]
        if not news:
            text = f"{verb} {node} although {taken.by} took it back at {taken.at:%H:%M:%S} and nothing happened since"
            self._seen.broken("S18-take-back", node, text)


def _taken_back(told: object) -> bool:
    taken = told.takeback  # type: ignore[attr-defined]
    return taken is not None and taken.number > told.contained_number  # type: ignore[attr-defined]


def _allowed(percent: int, nodes: int) -> int:
    return max(1, nodes * percent // 100)


def _foreign_taints(raw: Json) -> list[tuple[str, str]]:
    return sorted((t["key"], t["effect"]) for t in raw["spec"].get("taints", ()) if not t["key"].startswith(OUR_PREFIX))


def _foreign(raw: Json, what: str) -> dict[str, str]:
    found = raw["metadata"].get(what, {})
    return {k: v for k, v in found.items() if not k.startswith(OUR_PREFIX) or k in PLACES or k == "gpu.health/hold"}


def _foreign_conditions(raw: Json) -> list[tuple[str, str]]:
    return sorted(
        (c["type"], c["status"]) for c in raw["status"]["conditions"] if not c["type"].startswith(("GPU", "NVLink"))
    )
