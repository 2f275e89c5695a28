"""Slices of rules and cases: what is enough to notice a wrong change of one rule, and quick to run."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gpuheal_rules.cases import level, score, shared
from gpuheal_rules.cases.build import cases_of
from gpuheal_rules.cases.document import document
from gpuheal_rules.cases.world import LONG_STEPS, Case
from gpuheal_rules.catalogue.model import Catalogue
from gpuheal_rules.groups.alerts import annotation_templates
from gpuheal_rules.mutation.mutants import Mutant
from gpuheal_rules.options import Options
from gpuheal_rules.promql.promtool import run_tests
from gpuheal_rules.promql.rule import Group
from gpuheal_rules.render import rule_file, to_yaml

ALWAYS = frozenset({"watchdog"})
_ALERT = re.compile(r'alertname="(\w+)"')
STATE_FAULTS = frozenset(
    {
        "gpu-engine-fault",
        "gpu-fell-off-bus",
        "gpu-recovery-required",
        "gpu-row-remap-pending",
        "gpu-memory-uncontained",
        "app-gpu-error",
        "gpu-suspect-repeat",
        "gpu-thermal",
    }
)
SHARED_FAULTS = frozenset(
    {
        shared.FAULT,
        "gpu-fell-off-bus",
        "gpu-recovery-required",
        "app-gpu-error",
        "gpu-suspect-repeat",
        "gpu-ecc-trend",
        "gpu-missing",
    }
)
FIRST = (
    "shared",
    "gpu-fell-off-bus",
    "state",
    "gpu-fell-off-bus/long",
    "shared/long",
    "pipeline",
    "own",
    "fleet",
    "nvlink-fault",
    "gpu-missing",
)
"""Suites in which a change of a shared rule is looked for, quickest and likeliest first."""

BY_PREFIX: Mapping[str, tuple[str, ...]] = {
    "gpuheal:source_": ("shared", "gpu-missing", "pipeline", "pipeline-broken/long", "gpu-fell-off-bus", "state"),
    "gpuheal:pcie_": ("gpu-pcie-degraded", "gpu-pcie-degraded/long"),
    "gpuheal:gpu_counter": ("gpu-ecc-trend", "gpu-pcie-degraded/long", "nvlink-degraded/long"),
    "gpuheal:gpu_score": ("state",),
    "gpuheal:node_score": ("state",),
    "gpuheal:node_tier": ("state",),
    "gpuheal:gpu_state": ("state", "gpu-fell-off-bus"),
    "gpuheal:gpu_suspect": (
        "shared",
        "state",
    ),
    "gpuheal:app_xid_owner": ("shared", "gpu-suspect-repeat"),
    "gpuheal:dcgm_clocks_event": ("gpu-thermal", "gpu-power", "gpu-slow"),
    "gpuheal:signal:near": ("gpu-thermal",),
    "gpuheal:node_problem": ("telemetry-missing", "pipeline", "own"),
    "gpuheal:exporter_frozen": ("state", "pipeline"),
    "gpuheal:node_bad": ("fleet",),
    "gpuheal:rack": ("fleet",),
    "gpuheal:fabric_domain": ("fleet",),
    "gpuheal:driver_version": ("fleet",),
    "gpuheal:fault_nodes": ("telemetry-anomaly", "fleet"),
    "gpuheal:rdma_port_down": ("nic-down", "shared"),
    "gpuheal:rdma_port_active": ("nic-down", "nic-down/long", "shared"),
    "gpuheal:rdma_ports": ("nic-down", "shared"),
    "gpuheal:recovery_action": ("gpu-recovery-required",),
    "gpuheal:gpu_missed": ("shared", "telemetry-missing", "gpu-fell-off-bus"),
    "gpuheal:memory_since": ("shared",),
    "gpuheal:node_known": ("shared", "telemetry-missing"),
    "gpuheal:xid_harmless": ("nvlink-fault", "nvlink-degraded"),
    "gpuheal:fault_witness": ("state", "gpu-gsp-timeout", "gpu-fell-off-bus"),
    "gpuheal:fault_confidence": ("shared",),
    "gpuheal:fault_active": ("shared",),
    "gpuheal:fault_evidence:open": ("gpu-fell-off-bus", "state"),
    "gpuheal:node_guard": ("pipeline", "gpu-missing"),
    "gpuheal:gpu_node": ("shared", "node-not-ready", "gpu-missing", "node-gpu-condition"),
}


BY_FAULT = {
    "nvlink-degraded": ("nvlink-fault",),
    "gpu-memory-uncontained": ("gpu-memory-contained",),
    "gpu-suspect-repeat": ("shared",),
}
"""More suites for the rules of a fault: of the one it is the milder or severer form of, or of what it is built from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """The faults whose rules take part, and the cases."""

    name: str
    faults: frozenset[str]
    cases: Sequence[Case]


def suites(catalogue: Catalogue) -> dict[str, Suite]:
    """Return all suites by name; those of a fault are named after it, its hours-long cases end in /long."""
    found: dict[str, Suite] = {}
    for fault in catalogue.faults.values():
        cases = [case for alert in fault.alerts for case in cases_of(catalogue, fault, alert)]
        pair = {f.slug for f in catalogue.faults.values() if fault.slug in (f.slug, f.downgrade)} | {fault.downgrade}
        family = fault.family if fault.family in ("fleet", "pipeline", "own") else ""
        # The driver's own verdict is a witness of every hardware fault of a GPU.
        verdict = {"gpu-recovery-required"} if fault.hardware and fault.scope == "gpu" else set()
        others = {"gpu-fell-off-bus", "node-not-ready"} if family else verdict
        faults = frozenset(pair - {""}) | ALWAYS | others
        short = [case for case in cases if case.steps <= LONG_STEPS]
        for name, part in ((fault.slug, short), (f"{fault.slug}/long", [c for c in cases if c not in short])):
            if part:
                found[name] = Suite(name=name, faults=faults, cases=part)
    for family in ("fleet", "pipeline", "own"):
        slugs = [f.slug for f in catalogue.faults.values() if f.family == family]
        parts = [found[slug] for slug in slugs if slug in found]
        found[family] = Suite(
            name=family,
            faults=frozenset().union(*(part.faults for part in parts)),
            cases=[case for part in parts for case in part.cases],
        )
    remembered = shared.cases(catalogue)
    for name, part in (
        ("shared", [case for case in remembered if case.steps <= LONG_STEPS]),
        ("shared/long", [case for case in remembered if case.steps > LONG_STEPS]),
    ):
        found[name] = Suite(name=name, faults=SHARED_FAULTS | ALWAYS, cases=part)
    found["state"] = Suite(name="state", faults=STATE_FAULTS | ALWAYS, cases=score.cases(catalogue))
    alerts = [alert for _fault, alert in catalogue.alerts() if alert.expr != "watchdog"]
    found["quiet"] = Suite(name="quiet", faults=frozenset(catalogue.faults), cases=level.healthy(alerts))
    faults_of = {alert.name: fault.slug for fault, alert in catalogue.alerts()}
    return {name: _with_expected(suite, faults_of) for name, suite in found.items()}


def _with_expected(suite: Suite, faults_of: Mapping[str, str]) -> Suite:
    """Return the suite with the rules of every alert that one of its cases expects, whosever fault that is."""
    fired = {a.alertname for case in suite.cases for a in case.alerts if a.fires}
    for case in suite.cases:
        fired |= {name for query in case.queries for name in _ALERT.findall(query.expr)}
    expected = {faults_of[name] for name in fired if name in faults_of}
    return replace(suite, faults=suite.faults | expected)


def suites_for(mutant: Mutant, fault: str, known: Mapping[str, Suite]) -> list[Suite]:
    """Return the suites that may notice the mutant, in the order to run them; `fault` is the rule's label or empty."""
    if fault:
        names: Sequence[str] = [fault, f"{fault}/long", *BY_FAULT.get(fault, ())]
    else:
        names = next((value for prefix, value in BY_PREFIX.items() if mutant.name.startswith(prefix)), FIRST)
    return [known[name] for name in names if name in known]


def sliced(groups: Sequence[Group], suite: Suite) -> tuple[Group, ...]:
    """Return the groups without rules of faults that the suite does not need."""
    return tuple(
        replace(group, rules=tuple(r for r in group.rules if r.labels.get("fault", "watchdog") in suite.faults))
        for group in groups
    )


def failures(promtool: str, catalogue: Catalogue, groups: Sequence[Group], suite: Suite, folder: Path) -> str:
    """Return what promtool says when the suite's cases fail on these groups, empty when they pass."""
    templates = {
        alert.name: annotation_templates(catalogue, Options(), fault, alert) for fault, alert in catalogue.alerts()
    }
    rules, tests = folder / "rules.yaml", folder / f"{suite.name.replace('/', '-')}.test.yaml"
    rules.write_text(rule_file(sliced(groups, suite)), encoding="utf-8")
    if not tests.exists():
        tests.write_text(to_yaml(document(suite.cases, rules.name, templates)), encoding="utf-8")
    # A changed rule that no case asks for may still be noticed: by an error in its evaluation.
    return run_tests(promtool, [tests], whole=True)
