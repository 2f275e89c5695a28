"""All test files: one per alert, so that a failure names its alert and files can run side by side."""

from __future__ import annotations

from collections.abc import Mapping

from gpuheal_rules.cases import lost, xid
from gpuheal_rules.cases.world import Case, Expectation, document
from gpuheal_rules.groups.alerts import annotation_templates
from gpuheal_rules.model import Alert, Catalogue, Fault
from gpuheal_rules.options import Options
from gpuheal_rules.render import HEADER, to_yaml

RULE_FILE = "../generated/gpuheal.rules.yaml"


def promtool_files(catalogue: Catalogue, rule_file: str = RULE_FILE) -> dict[str, str]:
    """Return the text of every promtool test file by its name."""
    options = Options()
    templates = {alert.name: annotation_templates(alert, options) for _fault, alert in catalogue.alerts()}
    return {
        f"{alert.name}.test.yaml": _file(found, rule_file, templates)
        for fault, alert in catalogue.alerts()
        if (found := cases_of(catalogue, fault, alert))
    }


def _file(found: list[Case], rule_file: str, templates: Mapping[str, Mapping[str, str]]) -> str:
    return HEADER + to_yaml(document(found, rule_file, templates))


def cases_of(catalogue: Catalogue, fault: Fault, alert: Alert) -> list[Case]:
    """Return the cases of one alert."""
    if alert.expr == "watchdog":
        fires: tuple[dict[str, str], float] = (
            {"fault": fault.slug, "scope": fault.scope, "severity": alert.severity, "namespace": "gpuheal"},
            1.0,
        )
        expected = [Expectation(step=step, alertname=alert.name, fires=[fires]) for step in (0, 1, 20)]
        return [Case(name=f"{alert.name} always fires, with no data at all", series=[], alerts=expected, steps=20)]
    found: list[Case] = []
    if fault.xids and fault.scope == "gpu":
        found += xid.cases(catalogue, fault, alert)
    if any(evidence.special.startswith("lost_") for evidence in fault.evidence):
        found += lost.cases(fault, alert)
    return found
