"""Budgets: how many nodes of a failure domain may be out at once, and how many we may mark in a while.

A node that is contained and waits for its turn is out as well, but it counts only against nodes that came after it:
were all waiting nodes to count against each other, two faults in a small pool would block each other for good.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from gpuheal_responder.core.policy import Limits
from gpuheal_responder.core.world import DomainCount

MARK_WINDOW = timedelta(minutes=10)
POOL, RACK, ZONE, FABRIC = "pool", "rack", "zone", "fabric-domain"
UNKNOWN = "unknown"

DEFAULT_KEYS: Mapping[str, tuple[str, ...]] = {
    POOL: (
        "gpu.health/pool",
        "karpenter.sh/nodepool",
        "eks.amazonaws.com/nodegroup",
        "cloud.google.com/gke-nodepool",
        "kubernetes.azure.com/agentpool",
        "nvidia.com/gpu.product",
    ),
    RACK: ("gpu.health/rack", "topology.kubernetes.io/rack"),
    ZONE: ("topology.kubernetes.io/zone",),
    FABRIC: ("gpu.health/fabric-domain", "nvidia.com/gpu.clique"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How one GPU node counts in budgets.

    `disrupting` nodes may be rebooting at this moment. `queued_at` is when a node was contained that waits for its
    first disruptive step; it is not `unavailable` then. A `schedulable` node takes the pods that tolerate its `taints`.
    """

    node: str
    domains: Mapping[str, str]
    unavailable: bool = False
    disrupting: bool = False
    marked_recently: bool = False
    schedulable: bool = True
    taints: frozenset[str] = frozenset()
    queued_at: datetime | None = None


@dataclass(slots=True)
class _Count:
    nodes: int = 0
    unavailable: int = 0
    disrupting: int = 0
    marked_recently: int = 0
    schedulable: Counter[frozenset[str]] = field(default_factory=Counter)
    queue: list[tuple[datetime, str]] = field(default_factory=list)


def domains_of(labels: Mapping[str, str], keys: Mapping[str, Sequence[str]] = DEFAULT_KEYS) -> Mapping[str, str]:
    """Return the node's value in every dimension; a missing label puts it into one shared unknown domain.

    The NVLink domain is the exception: a node without that label belongs to none, as most nodes have no such fabric.
    """
    found = {}
    for dimension, candidates in keys.items():
        value = next((labels[k] for k in candidates if labels.get(k)), "")
        if value or dimension != FABRIC:
            found[dimension] = value or UNKNOWN
    return found


class Ledger:
    """Counts per failure domain over the GPU nodes of a pool; kept current while one round of decisions is made."""

    def __init__(self, standings: Iterable[Standing]) -> None:
        self._standing: dict[str, Standing] = {}
        self._counts: dict[tuple[str, str, str], _Count] = {}
        for standing in standings:
            self.put(standing)

    def put(self, standing: Standing) -> None:
        """Count the node as `standing` says, in place of how it counted before."""
        before = self._standing.get(standing.node)
        if before is not None:
            self._add(before, -1)
        self._add(standing, 1)
        self._standing[standing.node] = standing

    def get(self, node: str) -> Standing | None:
        """Return how the node counts now, or None for a node that is not counted."""
        return self._standing.get(node)

    def size(self, pool: str) -> int:
        """Return how many nodes the pool has."""
        count = self._counts.get((pool, POOL, pool))
        return count.nodes if count is not None else 0

    def domains_of(self, node: str) -> Mapping[str, str]:
        """Return the node's value in every dimension, or nothing for a node that is not counted."""
        found = self._standing.get(node)
        return found.domains if found is not None else {}

    def _add(self, standing: Standing, sign: int) -> None:
        for dimension, value in standing.domains.items():
            count = self._counts.setdefault(_key(standing, dimension, value), _Count())
            count.nodes += sign
            count.unavailable += sign * standing.unavailable
            count.disrupting += sign * standing.disrupting
            count.marked_recently += sign * standing.marked_recently
            count.schedulable[standing.taints] += sign * standing.schedulable
            if standing.queued_at is not None:
                place = (standing.queued_at, standing.node)
                if sign > 0:
                    insort(count.queue, place)
                else:
                    del count.queue[bisect_left(count.queue, place)]

    def domains(self, node: str) -> tuple[DomainCount, ...]:
        """Return the counts of the node's domains, the node itself left out of every use but the total.

        Of the waiting nodes only those contained before this one are unavailable to it. Schedulable are those that take
        its pods: a taint that this node does not carry keeps them off.
        """
        me = self._standing.get(node)
        if me is None:
            return ()
        found = []
        for dimension, value in sorted(me.domains.items()):
            count = self._counts[_key(me, dimension, value)]
            before = bisect_left(count.queue, (me.queued_at, node)) if me.queued_at else len(count.queue)
            found.append(
                DomainCount(
                    dimension=dimension,
                    value=value,
                    nodes=count.nodes,
                    unavailable=count.unavailable - me.unavailable + before,
                    disrupting=count.disrupting - me.disrupting,
                    marked_recently=count.marked_recently - me.marked_recently,
                    schedulable=sum(n for t, n in count.schedulable.items() if t <= me.taints) - me.schedulable,
                )
            )
        return tuple(found)


def _key(standing: Standing, dimension: str, value: str) -> tuple[str, str, str]:
    """Return what is counted together: shares are of a pool, an NVLink domain of no pool."""
    pool = "" if dimension == FABRIC else standing.domains.get(POOL, UNKNOWN)
    return pool, dimension, value


def allowance(percent: int, nodes: int) -> int:
    """Return how many of `nodes` a percentage allows: rounded down, at least one."""
    return max(1, nodes * percent // 100)


def disrupted(count: DomainCount) -> int:
    """Return how many nodes use up the limit of this domain: in a zone what may be rebooting, else all that are out.

    A zone is large and its share small: were cordoned nodes to count, a few broken ones would stop it from being
    healed, while pool and rack still have room.
    """
    return count.disrupting if count.dimension == ZONE else count.unavailable


def disruption_limit(count: DomainCount, limits: Limits) -> int:
    """Return how many nodes of this domain may be in remediation at once; of a zone, how many may be rebooting."""
    match count.dimension:
        case "pool":
            return allowance(limits.pool_percent, count.nodes)
        case "rack":
            return allowance(limits.rack_percent, count.nodes)
        case "zone":
            return allowance(limits.zone_percent, count.nodes)
        case _:
            return limits.fabric_domain_nodes
