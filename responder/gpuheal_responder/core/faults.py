"""Alertmanager's alerts folded into faults, or into dead letters that say why an alert is of no use.

Alerts are judged one by one by their own labels and state; what a group or a message says does not matter. Label values
are untrusted: a node name or fault slug is only looked up among known ones.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from gpuheal_responder.core.alert import Alert, Fault, Peer, Severity, Suppression, SuppressionKind, Target

WATCHDOG = "GPUHealWatchdog"
WIDE = frozenset({"fleet", "domain"})
"""Scopes whose alerts name no node: they are for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """An alert that names one of our faults but cannot be used; `reason` is a slug."""

    reason: str
    alertname: str
    fingerprint: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Intake:
    """What all answering peers report, by node name; `watchdog_at` is the newest sign of the dead man's alert."""

    faults: Mapping[str, tuple[Fault, ...]]
    dead: tuple[DeadLetter, ...]
    watchdog_at: datetime | None


def fold(peers: Sequence[Peer], *, cluster: str, known_faults: Collection[str], known_nodes: Collection[str]) -> Intake:
    """Return the faults of all answering peers, merged: earliest `since`, every suppression any peer reports.

    An alert whose `cluster` label differs from ours, or is missing while we were told ours, is a dead letter.
    """
    merged: dict[tuple[str, Target], Fault] = {}
    dead: dict[str, DeadLetter] = {}
    watchdog: datetime | None = None
    for peer in peers:
        silences = {s.id: f"{s.created_by}: {s.comment}" if s.comment else s.created_by for s in peer.silences}
        for alert in peer.alerts if peer.answered else ():
            if alert.labels.get("alertname") == WATCHDOG:
                watchdog = alert.updated_at if watchdog is None else max(watchdog, alert.updated_at)
                continue
            if not alert.labels.get("node") and alert.labels.get("scope") in WIDE:
                continue
            problem = _problem(alert, cluster, known_faults, known_nodes)
            if problem is not None:
                dead[alert.fingerprint] = problem
                continue
            fault = _fault(alert, peer.name, silences)
            key = (fault.slug, fault.target)
            merged[key] = _merge(merged[key], fault) if key in merged else fault
    by_node: dict[str, list[Fault]] = {}
    for fault in merged.values():
        by_node.setdefault(fault.target.node, []).append(fault)
    ordered = {node: tuple(sorted(found, key=_order)) for node, found in by_node.items()}
    return Intake(faults=ordered, dead=tuple(dead.values()), watchdog_at=watchdog)


def _order(fault: Fault) -> tuple[int, datetime, str, str]:
    return (list(Severity).index(fault.severity), fault.since, fault.slug, fault.target.gpu_uuid or "")


def _problem(
    alert: Alert, cluster: str, known_faults: Collection[str], known_nodes: Collection[str]
) -> DeadLetter | None:
    labels = alert.labels
    reason = detail = ""
    if cluster and labels.get("cluster") != cluster:
        reason, detail = "cluster-mismatch", f"cluster is {labels.get('cluster', 'missing')!r}, ours is {cluster!r}"
    elif labels.get("fault") not in known_faults:
        reason, detail = "unknown-fault", f"fault {labels.get('fault', '')!r} is not in the catalogue"
    elif labels.get("severity") not in list(Severity):
        reason, detail = "unknown-severity", f"severity is {labels.get('severity', 'missing')!r}"
    elif not labels.get("node"):
        reason, detail = "no-node", "the alert has no label node"
    elif labels["node"] not in known_nodes:
        reason, detail = "unknown-node", f"no GPU node is called {labels['node']!r}"
    if not reason:
        return None
    return DeadLetter(
        reason=reason, alertname=labels.get("alertname", ""), fingerprint=alert.fingerprint, detail=detail
    )


def _fault(alert: Alert, peer: str, silences: Mapping[str, str]) -> Fault:
    found = [
        Suppression(kind=SuppressionKind.SILENCE, by=silences.get(s, f"silence {s}"), peer=peer)
        for s in alert.silenced_by
    ]
    found += [Suppression(kind=SuppressionKind.INHIBITION, by=f, peer=peer) for f in alert.inhibited_by]
    found += [Suppression(kind=SuppressionKind.MUTE, by=m, peer=peer) for m in alert.muted_by]
    if alert.suppressed and not found:
        found.append(Suppression(kind=SuppressionKind.SILENCE, by="unknown", peer=peer))
    return Fault(
        slug=alert.labels["fault"],
        target=Target(node=alert.labels["node"], gpu_uuid=alert.labels.get("gpu_uuid") or None),
        severity=Severity(alert.labels["severity"]),
        since=alert.starts_at,
        alertname=alert.labels.get("alertname", ""),
        xid=alert.labels.get("xid") or None,
        suppressions=tuple(found),
    )


def _merge(first: Fault, second: Fault) -> Fault:
    return replace(
        first,
        since=min(first.since, second.since),
        xid=first.xid or second.xid,
        suppressions=(*first.suppressions, *(s for s in second.suppressions if s not in first.suppressions)),
    )
