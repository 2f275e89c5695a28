"""Turns rule groups into the texts that Prometheus and prometheus-operator read; equal input gives equal bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from gpuheal_rules.catalogue.load import load_catalogue
from gpuheal_rules.catalogue.model import Catalogue
from gpuheal_rules.catalogue.reader import format_duration
from gpuheal_rules.groups import alerts, evidence, fleet, guard, identity, latch, memory, score, trend, witness
from gpuheal_rules.options import Options
from gpuheal_rules.promql.cluster import by_cluster
from gpuheal_rules.promql.origin import of_jobs
from gpuheal_rules.promql.reach import needed
from gpuheal_rules.promql.rule import COUNT, EVIDENCE, WITNESS, AlertRule, Group, Record

HEADER = (
    "# Made by `gpuheal rules build` from rules/gpuheal_rules; edit the catalogue or the groups there, not this file.\n"
)
READ_OUTSIDE = frozenset({COUNT, EVIDENCE, WITNESS, identity.IDENTITY, witness.STATE})
"""Series that the responder, runbooks and dashboards read, whatever a site switches off (a test compares)."""
OBJECT_LIMIT = 400 * 1024
"""Bytes of rule text per PrometheusRule; prometheus-operator refuses 512 KiB (pkg/operator/rules.go)."""


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """Writes texts with line breaks as blocks, and never uses anchors; libyaml's is ten times as fast."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002
        return True


def _text(dumper: Any, value: str) -> yaml.ScalarNode:
    node: yaml.ScalarNode = dumper.represent_scalar(
        "tag:yaml.org,2002:str", value, style="|" if "\n" in value else None
    )
    return node


_Dumper.add_representer(str, _text)


def to_yaml(document: object) -> str:
    """Return `document` as YAML with keys in their given order and long lines unbroken."""
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=100_000, allow_unicode=True)


def build_groups(catalogue: Catalogue, options: Options) -> tuple[Group, ...]:
    """Return all groups; the main group carries a fact from scrape to alert within one evaluation.

    Where a site switched something off, what only that needed is left out as well.
    """
    groups = _groups(catalogue, options)
    if not catalogue.silenced:
        return groups
    return needed(groups, _groups(load_catalogue(), options), READ_OUTSIDE)


def _groups(catalogue: Catalogue, options: Options) -> tuple[Group, ...]:
    main: tuple[Record | AlertRule, ...] = (
        *identity.rules(catalogue, options),
        *guard.rules(catalogue, options),
        *latch.rules(catalogue, options),
        *evidence.rules(catalogue, options),
        *witness.rules(catalogue, options),
        *score.rules(catalogue, options),
        *fleet.rules(catalogue, options),
        *alerts.rules(catalogue, options),
    )
    slow = (*trend.rules(catalogue, options), *memory.rules(catalogue, options))
    groups = (
        Group(name="gpuheal", interval=options.interval, rules=main),
        Group(name="gpuheal-slow", interval=options.slow_interval, rules=slow),
    )
    return tuple(by_cluster(of_jobs(group, options), options) for group in groups)


def rule_data(rule: Record | AlertRule) -> dict[str, Any]:
    """Return one rule as the mapping Prometheus reads."""
    if isinstance(rule, Record):
        found: dict[str, Any] = {"record": rule.name, "expr": rule.expr}
        return found | ({"labels": dict(rule.labels)} if rule.labels else {})
    return {
        "alert": rule.name,
        "expr": rule.expr,
        **({"for": format_duration(rule.wait)} if rule.wait else {}),
        **({"keep_firing_for": format_duration(rule.keep)} if rule.keep else {}),
        "labels": dict(rule.labels),
        "annotations": dict(rule.annotations),
    }


def group_data(group: Group) -> dict[str, Any]:
    """Return one group as the mapping Prometheus reads."""
    return {
        "name": group.name,
        "interval": format_duration(group.interval),
        "rules": [rule_data(rule) for rule in group.rules],
    }


def rule_file(groups: Sequence[Group]) -> str:
    """Return the rule file for a plain Prometheus."""
    return HEADER + to_yaml({"groups": [group_data(group) for group in groups]})


def printed(groups: Sequence[Group], options: Options, form: str) -> str:
    """Return the groups as one rule file, or (`prometheusrule`) as objects for the operator."""
    if form == "rules":
        return rule_file(groups)
    return HEADER + "---\n".join(to_yaml(document) for document in prometheus_rules(groups, options))


def prometheus_rules(
    groups: Sequence[Group], options: Options, limit: int = OBJECT_LIMIT
) -> tuple[dict[str, Any], ...]:
    """Return PrometheusRule objects, each with less than `limit` bytes of rule text; a group is never split.

    Raises ValueError when one group alone is larger than `limit`.
    """
    bins: list[list[dict[str, Any]]] = []
    sizes: list[int] = []
    for group in groups:
        data = group_data(group)
        size = len(to_yaml(data).encode())
        if size > limit:
            raise ValueError(f"group {group.name} has {size} bytes, more than the {limit} of one object")
        if not bins or sizes[-1] + size > limit:
            bins.append([])
            sizes.append(0)
        bins[-1].append(data)
        sizes[-1] += size
    return tuple(
        {
            "apiVersion": "monitoring.coreos.com/v1",
            "kind": "PrometheusRule",
            "metadata": {
                "name": "gpuheal" if index == 0 else f"gpuheal-{index + 1}",
                "namespace": options.namespace,
                "labels": {"app.kubernetes.io/name": "gpuheal", "app.kubernetes.io/component": "rules"},
            },
            "spec": {"groups": found},
        }
        for index, found in enumerate(bins)
    )
