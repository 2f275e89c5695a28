"""What befell many nodes at once, and so is no fault of any of them: no ladder is climbed, and people are told once.

A *telemetry anomaly* is one fault on more than a fifth of a pool within ten minutes: hardware does not do that, a wrong
rule, exporter or driver does. A *correlated* incident is three nodes of one rack, leaf, NVLink domain or driver version
within ten minutes: they have one cause. Both end by themselves when the faults do, and a person may release them.
Tainting never waits for this: it has a budget of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from gpuheal_responder.core.alert import Fault, Incident, Scope, Severity, Target
from gpuheal_responder.core.budget import FABRIC, POOL, RACK, UNKNOWN, ZONE
from gpuheal_responder.core.world import GroupIncident

WINDOW = timedelta(minutes=10)
ANOMALY_PERCENT = 20
"""As the threshold fleet_anomaly_ratio of the rules; EKS node repair stops at the same share."""
ANOMALY_LEAST = 5
"""In a small pool a few nodes are soon a fifth of it, and two broken ones are no anomaly."""
CORRELATED = 3
"""As the threshold correlation_nodes of the rules (bursts in the field data of Titan)."""
ANOMALY, CORRELATION = "telemetry-anomaly", "correlated"
LEAF, DRIVER = "leaf", "driver-version"
KEYS: Mapping[str, tuple[str, ...]] = {
    LEAF: ("gpu.health/leaf", "network.topology.nvidia.com/leaf"),
    DRIVER: ("nvidia.com/cuda.driver-version.full", "nvidia.com/cuda.driver.rev"),
}
"""Labels of domains that have no budget and yet one cause."""
CONCENTRATED = (DRIVER, LEAF)
"""Domains that most of the fleet may share: they are a cause only when the nodes outside of them are well."""
ALERTS: Mapping[str, str] = {
    "telemetry-anomaly": ANOMALY,
    "rack-correlated": CORRELATION,
    "fabric-domain-correlated": CORRELATION,
    "rollout-correlated": CORRELATION,
}
"""Our own alerts about domains and the fleet that stop ladders, by fault."""
_DIMENSIONS = {
    "pool": POOL,
    "zone": ZONE,
    "rack": RACK,
    "leaf": LEAF,
    "fabric_domain": FABRIC,
    "driver_version": DRIVER,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Incidents:
    """All incidents of one look, by the nodes that are part of them."""

    by_node: Mapping[str, tuple[GroupIncident, ...]] = field(default_factory=dict)

    def of(self, node: str) -> tuple[GroupIncident, ...]:
        """Return what the node is part of."""
        return self.by_node.get(node, ())

    def all(self) -> tuple[GroupIncident, ...]:
        """Return every incident once."""
        return tuple({(i.kind, i.where, i.what): i for many in self.by_node.values() for i in many}.values())


def incidents_of(
    faults: Mapping[str, Sequence[Fault]],
    wide: Sequence[Incident],
    domains: Mapping[str, Mapping[str, str]],
    size: Callable[[str], int],
    released: Sequence[str] = (),
    released_at: datetime | None = None,
    treated: Callable[[str, Fault], bool] = lambda _node, _fault: False,
) -> Incidents:
    """Return what the faulty nodes are part of.

    `domains` gives every faulty node's domains, `size` the nodes of a pool, `released` the domains (`rack/r1`) that a
    person has looked at; one that names several (a rack and its zone) is released by any of them. What began after
    `released_at` nobody has looked at yet. Faults count that are critical or `treated` by a policy, whatever severity
    a site gives them; a swarm of trends that nothing acts on needs no brake.
    """
    found: dict[str, list[GroupIncident]] = {}
    for members, incident in [*_counted(faults, domains, size, treated), *_told(wide, domains)]:
        looked_at = released_at is None or incident.since <= released_at
        if looked_at and not set(incident.where.split(", ")).isdisjoint(released):
            continue
        for node in members:
            found.setdefault(node, []).append(incident)
    return Incidents(by_node={node: tuple(many) for node, many in found.items()})


def _counted(
    faults: Mapping[str, Sequence[Fault]],
    domains: Mapping[str, Mapping[str, str]],
    size: Callable[[str], int],
    treated: Callable[[str, Fault], bool],
) -> Iterable[tuple[Sequence[str], GroupIncident]]:
    """Yield (nodes, incident) for what we count ourselves."""
    since: dict[str, dict[str, dict[Target, datetime]]] = {}
    for node, many in faults.items():
        for fault in many:
            if node in domains and (fault.severity is Severity.CRITICAL or treated(node, fault)):
                first = since.setdefault(fault.slug, {}).setdefault(node, {})
                first[fault.target] = min(fault.since, first.get(fault.target, fault.since))
    for slug, by_node in since.items():
        groups: dict[tuple[str, str], dict[str, Collection[datetime]]] = {}
        for node, beginnings in by_node.items():
            for dimension, value in domains[node].items():
                if value != UNKNOWN or dimension == POOL:
                    groups.setdefault((dimension, value), {})[node] = beginnings.values()
        for (dimension, value), members in groups.items():
            least = _least(dimension, value, len(members), len(by_node), size)
            burst = _burst(members, least) if least else {}
            if burst:
                kind = ANOMALY if dimension == POOL else CORRELATION
                where = f"{dimension}/{value}"
                incident = GroupIncident(kind=kind, where=where, what=slug, since=min(burst.values()), nodes=len(burst))
                yield tuple(burst), incident


def _least(dimension: str, value: str, members: int, all_nodes: int, size: Callable[[str], int]) -> int:
    """Return how many nodes make an incident in this domain; 0 for one that makes none."""
    if dimension == POOL:
        return max(ANOMALY_LEAST, size(value) * ANOMALY_PERCENT // 100 + 1)
    if dimension == ZONE or (dimension in CONCENTRATED and members < all_nodes):
        return 0
    return CORRELATED


def _burst(members: Mapping[str, Collection[datetime]], least: int) -> Mapping[str, datetime]:
    """Return the nodes with a fault that began within one window with those of enough others, and when it did.

    Each beginning of a node counts: an old fault of one GPU does not hide the new one of another.
    """
    ordered = sorted((at, node) for node, beginnings in members.items() for at in beginnings)
    found: dict[str, datetime] = {}
    inside: Counter[str] = Counter()
    low = 0
    for high, (at, node) in enumerate(ordered):
        inside[node] += 1
        while at - ordered[low][0] > WINDOW:
            oldest = ordered[low][1]
            inside[oldest] -= 1
            if not inside[oldest]:
                del inside[oldest]
            low += 1
        if len(inside) >= least:
            for began, member in ordered[low : high + 1]:
                found.setdefault(member, began)
    return found


def _told(
    wide: Sequence[Incident], domains: Mapping[str, Mapping[str, str]]
) -> Iterable[tuple[Sequence[str], GroupIncident]]:
    """Yield (nodes, incident) for what the rules say of domains and the fleet."""
    for alert in wide:
        kind = ALERTS.get(alert.slug)
        named = {_DIMENSIONS[label]: value for label, value in alert.labels.items() if label in _DIMENSIONS}
        if kind is None or (alert.scope is Scope.DOMAIN and not named):
            continue
        members = [n for n, d in domains.items() if all(d.get(dim) == value for dim, value in named.items())]
        where = ", ".join(f"{dim}/{value}" for dim, value in sorted(named.items())) or "the fleet"
        yield (
            members,
            GroupIncident(
                kind=kind, where=where, what=alert.alertname or alert.slug, since=alert.since, nodes=len(members)
            ),
        )
