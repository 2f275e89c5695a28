"""Rules match only labels that a metric has, and only values that its exporter can give.

A matcher on a label or a value that nobody writes never holds, and a negated one always does: either way a rule reads
past its fault without a word.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import promql_parser
import pytest
import yaml

from gpuheal_exporters.catalogue.nvlink5 import reasons
from gpuheal_exporters.catalogue.resolution import ACTIONS
from gpuheal_exporters.collectors.registry import metrics
from gpuheal_exporters.collectors.software import PROCESSES, SOCKETS
from gpuheal_exporters.kernel.driverline import FAULT_KINDS
from gpuheal_responder.core.phase import Phase
from gpuheal_responder.core.reason import Reason
from gpuheal_responder.core.state import CaseState
from gpuheal_responder.shell.metrics import TABLE
from gpuheal_rules.catalogue.model import Catalogue
from gpuheal_rules.lint.flow import matchers, metric_names, selectors

RULES = Path(__file__).resolve().parents[2] / "rules" / "generated" / "gpuheal.rules.yaml"
LABELS: Mapping[str, set[str]] = {
    **{one.name: set(one.labels) for one in metrics()},
    **{name: set(one.labels) for one in TABLE for name in (one.name, f"{one.name}_count")},
}
VALUES: Mapping[tuple[str, str], set[str]] = {
    ("gpuheal_software_up", "component"): {*PROCESSES, *SOCKETS},
    ("gpuheal_kernel_fault_last_timestamp_seconds", "kind"): set(FAULT_KINDS),
    ("gpuheal_xid_resolution_info", "action"): set(ACTIONS),
    ("gpuheal_sxid_resolution_info", "action"): set(ACTIONS),
    ("gpuheal_xid_resolution_info", "blames"): {blames for _text, blames in reasons().values()},
    ("gpuheal_case_state", "state"): {*CaseState, "stale"},
    ("gpuheal_case_state", "phase"): set(Phase),
    ("gpuheal_case_state", "reason"): set(Reason),
    ("gpuheal_step_duration_seconds_count", "outcome"): set(Reason),
}
TARGET = {"job", "node"}
"""What a scrape puts on every series."""

READ = [
    (name, *matcher)
    for group in yaml.safe_load(RULES.read_text())["groups"]
    for rule in group["rules"]
    for selector in selectors(promql_parser.parse(rule["expr"]))
    for name in metric_names(selector)
    if name.startswith("gpuheal_")
    for matcher in matchers(selector)
]


def test_every_label_that_a_rule_matches_is_one_of_its_metric() -> None:
    """By the tables of exporter and responder that also make their METRICS.md."""
    unknown = {(name, label) for name, label, _sign, _value in READ if label not in LABELS[name] | TARGET}
    assert unknown == set()
    assert {name for name, label, _sign, _value in READ if label in LABELS[name]} >= {name for name, _label in VALUES}


def spelt(name: str, label: str) -> Iterator[str]:
    """Yield each alternative of each matcher on a label."""
    for found, of, _sign, value in READ:
        if (found, of) == (name, label):
            yield from value.split("|")


@pytest.mark.parametrize(("name", "label"), sorted(VALUES))
def test_every_value_that_a_rule_matches_is_one_that_is_written(name: str, label: str) -> None:
    """Each alternative of a pattern fits at least one value of the code that writes the label."""
    wanted = set(spelt(name, label))
    assert wanted
    idle = {value for value in wanted if not any(re.fullmatch(value, known) for known in VALUES[name, label])}
    assert idle == set()


def test_faults_of_cases_are_those_of_the_catalogue(catalogue: Catalogue) -> None:
    """Where a rule names a fault, in a series or as the label of an alert, the catalogue has it."""
    named = set(re.findall(r'fault="([^"]+)"', RULES.read_text()))
    assert named
    assert named <= set(catalogue.faults)
