"""What does not go together: settings that would leave an alert dead, or set rules and responder against each other."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from gpuheal_rules.catalogue.model import Alert, Catalogue, Fault
from gpuheal_rules.catalogue.reader import format_duration
from gpuheal_rules.groups.alerts import LASTS
from gpuheal_rules.site.form import Form

NEEDED = {
    "watchdog": "the responder starts no disruptive step without this heartbeat",
    "gpu-fell-off-bus": "the state of every GPU depends on it",
    "gpu-recovery-required": "the driver's own recovery action confirms every other fault",
}
"""Kinds that cannot be switched off, and why."""

RESPONDERS_OWN = {
    "fleet_anomaly_ratio": "its share of a pool (20 %)",
    "correlation_nodes": "its count of nodes with one cause (3)",
}
"""Thresholds that the responder has numbers of its own for (core.fleet there; a test compares)."""


def order(form: Form, catalogue: Catalogue) -> None:
    """Note thresholds that stand in the wrong order."""
    known = {**catalogue.thresholds, **catalogue.numbers}
    for name, item in known.items():
        if item.below and item.value >= known[item.below].value:
            problem = f"must be less than {item.below}, {item.value:.12g} is not"
            form.wrong(f"thresholds.{name}", f"{problem} less than {known[item.below].value:.12g}")


def waits(form: Form, catalogue: Catalogue) -> None:
    """Note alerts whose wait is longer than their fault can last."""
    for fault, alert in catalogue.alerts():
        if fault.hold is not None and alert.wait >= fault.hold:
            form.wrong(
                f"alerts.{alert.name}.for",
                f"{format_duration(alert.wait)} is not less than the {format_duration(fault.hold)} the fault lasts",
                "such an alert never fires",
            )


def warnings(shipped: Catalogue, changed: Catalogue) -> Iterator[str]:
    """Yield what a site should know of its settings although they are possible."""
    before = {alert.name: alert for _fault, alert in shipped.alerts()}
    believed = timedelta(seconds=changed.thresholds["hold_seconds"].value)
    for fault, alert in changed.alerts():
        yield from _of_alert(fault, alert, before.get(alert.name), believed)
    for slug, fault in changed.retired.items():
        if fault.state == "faulty" or fault.hardware:
            yield f"disabled: a GPU or node with {slug} counts as healthy, also when the responder verifies health"
    for slug, fault in changed.retired.items():
        if fault.family == "pipeline":
            yield f"disabled: no longer alerted on: {fault.title} ({slug})"
    for fault, alert in shipped.alerts():
        if fault.family == "pipeline" and fault.slug in changed.faults and alert.name in changed.silenced:
            yield f"disabled: no longer alerted on: {alert.name}"
    for name, own in RESPONDERS_OWN.items():
        if changed.thresholds[name].value != shipped.thresholds[name].value:
            yield f"thresholds.{name}: this changes the alert; the responder keeps {own}"


def _of_alert(fault: Fault, alert: Alert, before: Alert | None, believed: timedelta) -> Iterator[str]:
    if alert.wait >= believed and alert.wait != (before.wait if before else None):
        yield (
            f"alerts.{alert.name}.for: evidence of a silent source is kept for {format_duration(believed)}, "
            "so its faults end before the alert fires"
        )
    if alert.wait >= LASTS.get(alert.expr, alert.wait + timedelta(1)):
        span = format_duration(LASTS[alert.expr])
        yield f"alerts.{alert.name}.for: what happens once holds for {span}, so only what goes on is told"
    if fault.acted_on and before is not None and alert.wait > before.wait + timedelta(minutes=10):
        yield f"alerts.{alert.name}.for: the responder contains the node only after that time"
    if fault.acted_on and alert.keep:
        yield f"alerts.{alert.name}.keep_firing_for: the responder considers the fault present until then"
