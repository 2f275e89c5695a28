"""What befell many nodes at once, and so is no fault of any of them: no ladder is climbed, and people are told once.

A *telemetry anomaly* is one fault on more than a fifth of a pool within ten minutes: hardware does not do that, a wrong
rule, exporter or driver does. A *correlated* incident is three nodes of one rack, leaf, NVLink domain or driver version
within ten minutes: they have one cause. Both end by themselves when the faults do, and a person may release them.
Tainting never waits for this: it has a budget of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from gpuheal_responder.core.alert import Fault, Incident, Scope, Severity
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
) -> Incidents:
    """Return what the faulty nodes are part of.

    `domains` gives every faulty node's domains, `size` the nodes of a pool, `released` the domains (`rack/r1`) that a
    person has looked at.
    """
    found: dict[str, list[GroupIncident]] = {}
    for members, incident in [*_counted(faults, domains, size), *_told(wide, domains)]:
        if incident.where in released:
            continue
        for node in members:
            found.setdefault(node, []).append(incident)
    return Incidents(by_node={node: tuple(many) for node, many in found.items()})


def _counted(
    faults: Mapping[str, Sequence[Fault]], domains: Mapping[str, Mapping[str, str]], size: Callable[[str], int]
) -> Iterable[tuple[Sequence[str], GroupIncident]]:
    """Yield (nodes, incident) for what we count ourselves."""
    since: dict[str, dict[str, datetime]] = {}
    for node, many in faults.items():
        for fault in many:
            if fault.severity is Severity.CRITICAL and node in domains:
                first = since.setdefault(fault.slug, {})
                first[node] = min(fault.since, first.get(node, fault.since))
    for slug, by_node in since.items():
        groups: dict[tuple[str, str], dict[str, datetime]] = {}
        for node, at in by_node.items():
            for dimension, value in domains[node].items():
                if value != UNKNOWN or dimension == POOL:
                    groups.setdefault((dimension, value), {})[node] = at
        for (dimension, value), members in groups.items():
            least = _least(dimension, value, len(members), len(by_node), size)
            burst = _burst(members, least) if least else ()
            if burst:
                kind = ANOMALY if dimension == POOL else CORRELATION
                began = min(members[n] for n in burst)
                where = f"{dimension}/{value}"
                yield burst, GroupIncident(kind=kind, where=where, what=slug, since=began, nodes=len(burst))


def _least(dimension: str, value: str, members: int, all_nodes: int, size: Callable[[str], int]) -> int:
    """Return how many nodes make an incident in this domain; 0 for one that makes none."""
    if dimension == POOL:
        return max(ANOMALY_LEAST, size(value) * ANOMALY_PERCENT // 100 + 1)
    if dimension == ZONE or (dimension in CONCENTRATED and members < all_nodes):
        return 0
    return CORRELATED


def _burst(members: Mapping[str, datetime], least: int) -> tuple[str, ...]:
    """Return the nodes whose faults began within one window with enough others."""
    ordered = sorted(members.items(), key=lambda item: (item[1], item[0]))
    found: dict[str, None] = {}
    low = 0
    for high, (_, at) in enumerate(ordered):
        while at - ordered[low][1] > WINDOW:
            low += 1
        if high - low + 1 >= least:
            found.update(dict.fromkeys(node for node, _ in ordered[low : high + 1]))
    return tuple(found)


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
