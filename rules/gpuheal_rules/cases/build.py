"""All test files: one per family of faults, so that they can run side by side.

Cases of one family share one test, each on a node of its own: the rules are evaluated once for all of them.
"""

from __future__ import annotations

from collections.abc import Mapping

from gpuheal_rules.cases import fleet, level, lost, score, shared, xid
from gpuheal_rules.cases.document import document
from gpuheal_rules.cases.world import Case
from gpuheal_rules.catalogue.model import Alert, Catalogue, Fault
from gpuheal_rules.groups.alerts import annotation_templates
from gpuheal_rules.options import Options
from gpuheal_rules.render import HEADER, to_yaml

RULE_FILE = "../generated/gpuheal.rules.yaml"


def promtool_files(catalogue: Catalogue, rule_file: str = RULE_FILE) -> dict[str, str]:
    """Return the text of every promtool test file by its name."""
    options = Options()
    templates = {
        alert.name: annotation_templates(catalogue, options, fault, alert) for fault, alert in catalogue.alerts()
    }
    families: dict[str, list[Case]] = {}
    for fault, alert in catalogue.alerts():
        families.setdefault(fault.family, []).extend(cases_of(catalogue, fault, alert))
    families["shared"] = shared.cases(catalogue)
    families["state"] = score.cases(catalogue)
    families["quiet"] = level.healthy([alert for _fault, alert in catalogue.alerts() if alert.expr != "watchdog"])
    return {f"{family}.test.yaml": _file(found, rule_file, templates) for family, found in families.items()}


def _file(found: list[Case], rule_file: str, templates: Mapping[str, Mapping[str, str]]) -> str:
    return HEADER + to_yaml(document(found, rule_file, templates))


def cases_of(catalogue: Catalogue, fault: Fault, alert: Alert) -> list[Case]:
    """Return the cases of one alert."""
    found: list[Case] = []
    if alert.expr:
        return fleet.cases(catalogue, fault, alert)
    if fault.xids and fault.scope == "gpu":
        found += xid.cases(catalogue, fault, alert)
    found += level.cases(catalogue, fault, alert)
    # These are written for an alert that fires at once, as the shipped one does.
    if any(evidence.special.startswith("lost_") for evidence in fault.evidence) and not alert.wait:
        found += lost.cases(fault, alert)
    return found
