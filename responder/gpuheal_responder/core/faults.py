"""Alertmanager's alerts folded into faults and incidents, or into dead letters that say why an alert is of no use.

Alerts are judged one by one by their own labels and state; what a group or a message says does not matter. Label values
are untrusted: a node name or fault slug is only looked up among known ones, and whatever else enters a fault has a
shape and a length that the store takes. One alert of somebody's must never make a case that can't be written.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TypeVar

from gpuheal_responder.core.alert import (
    Alert,
    Fault,
    Incident,
    Peer,
    Scope,
    Severity,
    Silence,
    Suppression,
    SuppressionKind,
    Target,
)
from gpuheal_responder.core.duration import YEARS
from gpuheal_responder.core.reason import DeadLetterReason

WATCHDOG = "GPUHealWatchdog"
WHERE = ("pool", "zone", "rack", "leaf", "fabric_domain", "driver_version")
"""Labels that say what an alert of a domain or the fleet is about."""
MOST_FAULTS = 64
"""Faults of one node at one moment; 16 GPUs with a few faults each, and a quarter of what a Remediation takes."""
MOST_INCIDENTS = 256
MOST_LABELS = 48
MOST_DEAD = 1000
MOST_SUPPRESSIONS = 32
LONGEST_NAME = 128
LONGEST_PLACE = 253
LONGEST_SAID = 300
_GPU = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/-]{0,127}")
_XID = re.compile(r"[0-9]{1,8}")

T = TypeVar("T", Fault, Incident)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """An alert that names one of our faults but cannot be used."""

    reason: DeadLetterReason
    alertname: str
    fingerprint: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Intake:
    """What all answering peers report.

    `faults` are by node name, the worst first; `wide` are the incidents of domains and of the fleet; `watchdog_at` is
    when an Alertmanager last got the dead man's alert of our cluster from Prometheus.
    """

    faults: Mapping[str, tuple[Fault, ...]]
    dead: tuple[DeadLetter, ...]
    watchdog_at: datetime | None
    wide: tuple[Incident, ...] = ()


def fold(peers: Sequence[Peer], *, cluster: str, known_faults: Collection[str], known_nodes: Collection[str]) -> Intake:
    """Return what all answering peers report, merged: earliest `since`, every suppression any peer knows of.

    An alert whose `cluster` label differs from ours, or is missing while we were told ours, is a dead letter. Where we
    were not told, alerts that name clusters are trusted as long as they all name the same one.
    """
    named = {alert.labels["cluster"] for peer in peers for alert in peer.alerts if alert.labels.get("cluster")}
    folding = _Folding(cluster=cluster, several=len(named) > 1, known_faults=known_faults, known_nodes=known_nodes)
    for peer in peers:
        if peer.answered:
            folding.take(peer)
    return folding.intake()


@dataclass(slots=True, kw_only=True)
class _Folding:
    """What has been gathered so far."""

    cluster: str
    several: bool
    known_faults: Collection[str]
    known_nodes: Collection[str]
    faults: dict[tuple[str, Target], Fault] = field(default_factory=dict)
    wide: dict[tuple[object, ...], Incident] = field(default_factory=dict)
    dead: dict[str, DeadLetter] = field(default_factory=dict)
    watchdog_at: datetime | None = None

    def take(self, peer: Peer) -> None:
        """Take in all that one peer says."""
        silences = {s.id: author(s) for s in peer.silences}
        for alert in peer.alerts:
            if alert.labels.get("alertname") == WATCHDOG:
                self._beat(alert, peer)
                continue
            wide = not alert.labels.get("node") and alert.labels.get("scope") in list(Scope)
            problem = self._foreign(alert.labels) or self._unknown(alert, wide) or (None if wide else self._lost(alert))
            if problem is not None:
                self._bury(alert, *problem)
            elif wide:
                incident = _incident(alert, _suppressions(alert, peer.name, silences))
                key = (incident.slug, incident.scope, *sorted(incident.labels.items()))
                self.wide[key] = _merge(self.wide[key], incident) if key in self.wide else incident
            else:
                fault = _fault(alert, _suppressions(alert, peer.name, silences))
                at = (fault.slug, fault.target)
                self.faults[at] = _merge(self.faults[at], fault) if at in self.faults else fault

    def intake(self) -> Intake:
        """Return what was gathered, in a stable order and within bounds."""
        by_node: dict[str, list[Fault]] = {}
        for fault in self.faults.values():
            by_node.setdefault(fault.target.node, []).append(fault)
        ordered = {}
        for node, found in by_node.items():
            found.sort(key=_order)
            ordered[node] = tuple(found[:MOST_FAULTS])
            for fault in found[MOST_FAULTS:]:
                self._say(
                    f"{node}/{fault.slug}",
                    fault.alertname,
                    DeadLetterReason.TOO_MANY_FAULTS,
                    f"{node} has {len(found)} faults (limit {MOST_FAULTS})",
                )
        wide = sorted(self.wide.values(), key=_order_wide)
        for incident in wide[MOST_INCIDENTS:]:
            detail = f"{len(wide)} at once (limit {MOST_INCIDENTS})"
            self._say(incident.slug, incident.alertname, DeadLetterReason.TOO_MANY_INCIDENTS, detail)
        dead = tuple(self.dead.values())[:MOST_DEAD]
        return Intake(faults=ordered, dead=dead, watchdog_at=self.watchdog_at, wide=tuple(wide[:MOST_INCIDENTS]))

    def _beat(self, alert: Alert, peer: Peer) -> None:
        """Take in the dead man's alert; another cluster's is none of our business, one by a wrong clock proves nothing.

        Alertmanager lists no alert that has ended.
        """
        problem = self._foreign(alert.labels)
        if problem is not None:
            if "cluster" not in alert.labels or not self.cluster:
                self._bury(alert, *problem)
        elif not peer.problem:
            self.watchdog_at = max(self.watchdog_at or alert.updated_at, alert.updated_at)

    def _foreign(self, labels: Mapping[str, str]) -> tuple[DeadLetterReason, str] | None:
        if not self.cluster:
            if not self.several:
                return None
            detail = f"cluster is {_quoted(labels.get('cluster'))} among others, and the setting `cluster` is missing"
            return DeadLetterReason.CLUSTER_MISMATCH, detail
        if labels.get("cluster") == self.cluster:
            return None
        detail = f"cluster is {_quoted(labels.get('cluster'))}, expected {self.cluster!r}"
        return DeadLetterReason.CLUSTER_MISMATCH, detail

    def _unknown(self, alert: Alert, wide: bool) -> tuple[DeadLetterReason, str] | None:
        """Return why the alert says nothing we understand, or None."""
        if alert.labels.get("fault") not in self.known_faults:
            return DeadLetterReason.UNKNOWN_FAULT, f"fault {_quoted(alert.labels.get('fault'))} is not in the catalogue"
        return _unusable(alert, wide)

    def _lost(self, alert: Alert) -> tuple[DeadLetterReason, str] | None:
        """Return why no node of ours is meant, or None."""
        if not alert.labels.get("node"):
            return DeadLetterReason.NO_NODE, "the alert has no `node` label"
        if alert.labels["node"] not in self.known_nodes:
            return DeadLetterReason.NOT_A_NODE, f"there is no GPU node {_quoted(alert.labels['node'])}"
        return None

    def _bury(self, alert: Alert, reason: DeadLetterReason, detail: str) -> None:
        self._say(clean(alert.fingerprint, LONGEST_NAME), alert.labels.get("alertname", ""), reason, detail)

    def _say(self, fingerprint: str, alertname: str, reason: DeadLetterReason, detail: str) -> None:
        name = clean(alertname, LONGEST_NAME)
        said = DeadLetter(
            reason=reason, alertname=name, fingerprint=fingerprint, detail=clean(detail, 2 * LONGEST_SAID)
        )
        self.dead[fingerprint] = said


def clean(text: str, longest: int) -> str:
    """Return the text on one line, without signs that can't be printed, cut to `longest` characters."""
    cut = text[: longest + 1]
    shown = "".join(sign if sign.isprintable() else " " for sign in cut)
    return shown if len(shown) <= longest else f"{shown[: longest - 1]}…"


def _quoted(value: str | None) -> str:
    return "missing" if value is None else repr(clean(value, LONGEST_NAME))


def _unusable(alert: Alert, wide: bool) -> tuple[DeadLetterReason, str] | None:
    """Return why an alert can't become a fault whatever it names, or None."""
    labels = alert.labels
    if labels.get("severity") not in list(Severity):
        return DeadLetterReason.UNKNOWN_SEVERITY, f"severity is {_quoted(labels.get('severity'))}"
    if alert.starts_at.year not in YEARS or alert.updated_at.year not in YEARS:
        return DeadLetterReason.UNUSABLE_TIME, f"startsAt is in the year {alert.starts_at.year}"
    checks: dict[str, Callable[[str], object]] = {"alertname": _plain(LONGEST_NAME)}
    if wide:
        checks |= dict.fromkeys(WHERE, _plain(LONGEST_PLACE))
    else:
        checks |= {"gpu_uuid": _GPU.fullmatch, "xid": _XID.fullmatch}
    for name, usable in checks.items():
        if labels.get(name) and not usable(labels[name]):
            return DeadLetterReason.UNUSABLE_LABEL, f"{name} is {_quoted(labels[name])}"
    return None


def _plain(longest: int) -> Callable[[str], bool]:
    return lambda text: len(text) <= longest and text.isprintable()


def _fault(alert: Alert, suppressions: tuple[Suppression, ...]) -> Fault:
    labels = alert.labels
    return Fault(
        slug=labels["fault"],
        target=Target(node=labels["node"], gpu_uuid=labels.get("gpu_uuid") or None),
        severity=Severity(labels["severity"]),
        since=alert.starts_at,
        alertname=labels.get("alertname", ""),
        xid=labels.get("xid") or None,
        suppressions=suppressions,
        labels=_labels(labels),
    )


def _labels(labels: Mapping[str, str]) -> Mapping[str, str]:
    """Return the labels in a form and number that the store takes; too long ones can't be matched by a silence."""
    kept = (
        (name, value) for name, value in labels.items() if len(name) <= LONGEST_NAME and len(value) <= LONGEST_PLACE
    )
    return dict(
        sorted((name, value) for name, value in kept if name.isprintable() and value.isprintable())[:MOST_LABELS]
    )


def _incident(alert: Alert, suppressions: tuple[Suppression, ...]) -> Incident:
    labels = alert.labels
    return Incident(
        slug=labels["fault"],
        scope=Scope(labels["scope"]),
        severity=Severity(labels["severity"]),
        since=alert.starts_at,
        labels={name: labels[name] for name in WHERE if labels.get(name)},
        alertname=labels.get("alertname", ""),
        suppressions=suppressions,
    )


def author(silence: Silence) -> str:
    """Return in one line whose silence it is, and why."""
    said = f"{silence.created_by}: {silence.comment}" if silence.comment else silence.created_by
    return clean(said, LONGEST_SAID)


def _suppressions(alert: Alert, peer: str, silences: Mapping[str, str]) -> tuple[Suppression, ...]:
    """Return who keeps the alert from people, silences first: no other kind may crowd out a person's."""
    found = [(SuppressionKind.SILENCE, silences.get(s) or f"silence {s}") for s in alert.silenced_by]
    found += [(SuppressionKind.INHIBITION, fingerprint) for fingerprint in alert.inhibited_by]
    found += [(SuppressionKind.MUTE, interval) for interval in alert.muted_by]
    if alert.suppressed and not found:
        found.append((SuppressionKind.SILENCE, "unknown"))
    return tuple(Suppression(kind=kind, by=clean(by, LONGEST_SAID), peer=peer) for kind, by in _first(found))


def _first(found: Iterable[tuple[SuppressionKind, str]]) -> list[tuple[SuppressionKind, str]]:
    return list(dict.fromkeys(found))[:MOST_SUPPRESSIONS]


def _merge(first: T, second: T) -> T:
    both = dict.fromkeys((*first.suppressions, *second.suppressions))
    by_kind = sorted(both, key=lambda s: s.kind is not SuppressionKind.SILENCE)
    merged = replace(first, since=min(first.since, second.since), suppressions=tuple(by_kind[:MOST_SUPPRESSIONS]))
    if isinstance(merged, Fault) and isinstance(second, Fault):
        return replace(merged, xid=merged.xid or second.xid)
    return merged


def _order(fault: Fault) -> tuple[int, datetime, str, str]:
    return (list(Severity).index(fault.severity), fault.since, fault.slug, fault.target.gpu_uuid or "")


def _order_wide(incident: Incident) -> tuple[int, datetime, str, str]:
    return (
        list(Severity).index(incident.severity),
        incident.since,
        incident.slug,
        str(sorted(incident.labels.items())),
    )
