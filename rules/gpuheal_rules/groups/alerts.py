"""Layer 4: alerts. A fault with evidence fires while its fault is active; the others name their expression."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from gpuheal_rules.groups.witness import ACTIVE
from gpuheal_rules.model import Alert, Catalogue, Fault
from gpuheal_rules.options import Options
from gpuheal_rules.rule import AlertRule


def _watchdog(_catalogue: Catalogue, _options: Options) -> str:
    return "vector(1)"


EXPRESSIONS: Mapping[str, Callable[[Catalogue, Options], str]] = {"watchdog": _watchdog}


def rules(catalogue: Catalogue, options: Options) -> Iterator[AlertRule]:
    """Yield every alert in the catalogue's order."""
    for fault, alert in catalogue.alerts():
        evident = f'{ACTIVE}{{fault="{fault.slug}"}} > 0'
        yield AlertRule(
            name=alert.name,
            expr=EXPRESSIONS[alert.expr](catalogue, options) if alert.expr else evident,
            wait=alert.wait,
            labels=static_labels(fault, alert, options),
            annotations=annotation_templates(alert, options),
        )


def static_labels(fault: Fault, alert: Alert, options: Options) -> dict[str, str]:
    """Return the static labels of an alert."""
    return {
        "fault": fault.slug,
        "scope": fault.scope,
        "severity": alert.severity,
        "namespace": options.namespace,
    }


def annotation_templates(alert: Alert, options: Options) -> dict[str, str]:
    """Return the annotations of an alert, with their templates."""
    found = {
        "summary": alert.summary,
        "description": alert.description,
        "runbook_url": f"{options.runbook_base}/{alert.name}",
    }
    if options.dashboard_base:
        found["dashboard_url"] = options.dashboard_base
    return found
