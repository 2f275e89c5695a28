"""Whose series a rule reads: raw selectors name the job of their source, selectors of recorded series name no job.

Anybody who may run a pod that is scraped can show series of any name, one with colons among them, with any labels that
the target does not set. What such a pod shows has its own job, and is read by no rule: what a rule records has none.
"""

from __future__ import annotations

import re
from dataclasses import replace

from gpuheal_rules.options import Options
from gpuheal_rules.promql.rule import AlertRule, Group, Record

OF_RESPONDER = re.compile(
    r"gpuheal_(case_|fault_cleared_|cordon_budget_|leader|last_good_round_|unreadable_|incident_|step_duration_|"
    r"responder_|frozen)\w*"
)
"""What the responder exports; every other gpuheal_* is the exporter's."""
_PARTS = re.compile(r'("[^"]*")')
_NAMES = re.compile(r"(?<![\w:])((?:gpuheal_|DCGM_|kube_)\w+|gpuheal:[\w:]+)(\{)?")
RECORDED = 'job=""'
"""Matches series that have no job: those that rules made."""
OF_TARGETS = re.compile(r"gpuheal:\w*dcgm_target_node\w*(:\w+)*")
"""What rules recorded of each target of dcgm-exporter, with the job of that target."""


def of_jobs(group: Group, options: Options) -> Group:
    """Return the group with the job of its source in every selector, and with none where rules made the series."""
    rules: list[Record | AlertRule] = [replace(rule, expr=named(rule.expr, options)) for rule in group.rules]
    return replace(group, rules=tuple(rules))


def named(expr: str, options: Options) -> str:
    """Return the expression with a matcher on `job` in every selector."""

    def selector(match: re.Match[str]) -> str:
        made = match[1].startswith("gpuheal:") and not OF_TARGETS.fullmatch(match[1])
        job = RECORDED if made else f'job=~"{options.job(source(match[1]))}"'
        return f"{match[1]}{{{job}, " if match[2] else f"{match[1]}{{{job}}}"

    # Names inside of texts (label values, regular expressions) are no selectors.
    return "".join(part if part.startswith('"') else _NAMES.sub(selector, part) for part in _PARTS.split(expr))


def source(metric: str) -> str:
    """Return the source that exports a metric."""
    if metric.startswith("DCGM_") or OF_TARGETS.fullmatch(metric):
        return "dcgm"
    if metric.startswith("kube_"):
        return "ksm"
    return "responder" if OF_RESPONDER.fullmatch(metric) else "exporter"
