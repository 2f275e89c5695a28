"""Cases for a site: what it changed or added is tried with its numbers, and a healthy node raises nothing.

They run on the site's rules with the settings that the cases are written for (intervals, jobs, labels, namespace), in a
rule file of their own. Numbers that all faults share (how long a silent source is believed, guards, counts of
nodes) and holds are the shipped ones there; what a site sets them to stands in one constant each.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from gpuheal_rules.cases import level
from gpuheal_rules.cases.build import cases_of
from gpuheal_rules.cases.document import document
from gpuheal_rules.cases.world import Case, Expectation
from gpuheal_rules.catalogue.model import Alert, Catalogue, Fault
from gpuheal_rules.groups.alerts import LASTS, annotation_templates
from gpuheal_rules.options import Options
from gpuheal_rules.render import HEADER, build_groups, rule_file, to_yaml

RULES = "site.rules.yaml"
LONGEST_WAIT = timedelta(minutes=30)
"""Alerts that wait longer have no cases: they would take promtool minutes."""

AT_ONCE = LASTS.keys() | {"case_escalated_for_days"}
"""Expressions whose cases show what happens once, to an alert that does not wait."""


def site_files(catalogue: Catalogue, shipped: Catalogue) -> dict[str, str]:
    """Return the rule file and the test files of a site by name."""
    tried = _with_shared_numbers(catalogue, shipped)
    options = Options()
    templates = {alert.name: annotation_templates(tried, options, fault, alert) for fault, alert in tried.alerts()}
    families: dict[str, list[Case]] = {}
    as_shipped = {alert for _fault, alert in shipped.alerts()}
    others = tried.silenced | {alert.name for _fault, alert in tried.alerts() if alert not in as_shipped}
    for fault, alert in tried.alerts():
        if _changed(fault, alert, tried, shipped) and _can_be_tried(alert, shipped):
            cases = [_fitted(case, alert, others - {alert.name}) for case in cases_of(tried, fault, alert)]
            families.setdefault(fault.family, []).extend(cases)
    families["quiet"] = level.healthy([a for _fault, a in tried.alerts() if a.expr != "watchdog"])
    found = {RULES: rule_file(build_groups(tried, options))}
    for family, cases in families.items():
        if cases:
            found[f"{family}.test.yaml"] = HEADER + to_yaml(document(cases, RULES, templates))
    return found


def _with_shared_numbers(catalogue: Catalogue, shipped: Catalogue) -> Catalogue:
    own = {evidence_number for fault in catalogue.every_fault() for evidence_number in _numbers(fault)}
    thresholds = {
        name: item if name in own else shipped.thresholds.get(name, item) for name, item in catalogue.thresholds.items()
    }
    faults = {
        slug: replace(fault, hold=shipped.faults[slug].hold) if slug in shipped.faults else fault
        for slug, fault in catalogue.faults.items()
    }
    return replace(catalogue, thresholds=thresholds, numbers=shipped.numbers, faults=faults)


def _numbers(fault: Fault) -> set[str]:
    return {name for evidence in fault.evidence for name in (evidence.threshold, evidence.leave) if name}


def _changed(fault: Fault, alert: Alert, catalogue: Catalogue, shipped: Catalogue) -> bool:
    """Return whether anything that a case of the alert shows differs from what is shipped."""
    before = shipped.faults.get(fault.slug)
    if before is None or alert not in before.alerts:
        return True
    return any(catalogue.thresholds[name] != shipped.thresholds[name] for name in _numbers(fault))


def _can_be_tried(alert: Alert, shipped: Catalogue) -> bool:
    waits = {known.name: known.wait for _fault, known in shipped.alerts()}
    moved = alert.wait != waits.get(alert.name, alert.wait)
    return alert.wait <= LONGEST_WAIT and not (moved and alert.expr in AT_ONCE)


def _fitted(case: Case, alert: Alert, others: frozenset[str]) -> Case:
    """Return the case without what it asks of alerts that are off or changed, and of one that fires on for a while."""
    asked = [query for query in case.queries if not any(f'"{name}"' in query.expr for name in others)]
    # An alert that fires at once has no evaluation before.
    case = replace(case, queries=asked, alerts=[expected for expected in case.alerts if expected.step >= 0])
    if not alert.keep:
        return case
    fired = [e.step for e in case.alerts if e.alertname == alert.name and e.fires]

    def lasts(expected: Expectation) -> bool:
        return expected.alertname == alert.name and not expected.fires and any(step < expected.step for step in fired)

    return replace(case, alerts=[expected for expected in case.alerts if not lasts(expected)])
