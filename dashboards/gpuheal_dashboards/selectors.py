"""Expressions for all sites: each selector names the job of its source and the chosen cluster.

A board is written for one cluster. Here every selector gets the matcher of the variable `cluster`, and every grouping
and matching by node, rack or NVLink domain gets the cluster's label, so that nodes of equal names in two clusters stay
apart. Where series have no such label both change nothing.
"""

from __future__ import annotations

import re

from gpuheal_rules.options import Options
from gpuheal_rules.promql.origin import OF_TARGETS, source

DEFAULT_CLUSTER_LABEL = "cluster"
_TEXTS = re.compile(r'("(?:\\.|[^"\\])*")')
_NAMES = re.compile(r"(?<![\w:])((?:gpuheal_|DCGM_|kube_|prometheus_|alertmanager_)\w+|gpuheal:[\w:]+|ALERTS)(\{)?")
_GROUPINGS = re.compile(r"\b(by|on) \(([^()]*)\)")
_PLACES = {"node", "target_node", "rack", "fabric_domain"}
_OF_DCGM = re.compile(r'DCGM_\w+\{[^}]*\} < \d+, "gpu_uuid", "\$1", "UUID"')
OURS = 'namespace="gpuheal"'
"""The label of all alerts of gpuheal, as the boards are written."""
_OF_RESPONDER = re.compile(
    r"gpuheal_(verdicts|tick|observe_errors|evidence_ignored|dead_letters|deliveries|delivery|connections_ended|"
    r"event_loop|config_errors|ignored_faults)_?"
)
"""What the responder exports and no rule reads."""
_OF_SERVERS = ("prometheus_", "alertmanager_")
"""Series of servers that may serve several clusters, and belong to none."""
THRESHOLD = "gpuheal:threshold"
"""The same for all clusters of a ruler, without their label."""


def for_site(expr: str, options: Options) -> str:
    """Return the expression with jobs and cluster in every selector, and the cluster in every grouping by place."""
    label = options.cluster_label or DEFAULT_CLUSTER_LABEL

    def selector(match: re.Match[str]) -> str:
        matchers = ", ".join(_matchers(match[1], label, options))
        if not matchers:
            return match[0]
        return f"{match[1]}{{{matchers}, " if match[2] else f"{match[1]}{{{matchers}}}"

    def grouping(match: re.Match[str]) -> str:
        named = [name.strip() for name in match[2].split(",")]
        return f"{match[1]} ({label}, {match[2]})" if _PLACES.intersection(named) else match[0]

    expr = _of_profile(expr.replace(OURS, f'namespace="{options.namespace}"'), options)
    # Names inside of texts (label values, regular expressions) are no selectors.
    parts = _TEXTS.split(expr)
    return "".join(
        part if part.startswith('"') else _GROUPINGS.sub(grouping, _NAMES.sub(selector, part)) for part in parts
    )


def _of_profile(expr: str, options: Options) -> str:
    """Return the expression with the labels that dcgm-exporter has at this site; one written for `node` and `UUID`."""
    uuid, node = options.labels.gpu[0], options.labels.node

    def spelt(match: re.Match[str]) -> str:
        return match[0].replace("node=", f"{node}=").replace("UUID", uuid)

    return _OF_DCGM.sub(spelt, expr)


def _matchers(metric: str, label: str, options: Options) -> list[str]:
    if metric.startswith(_OF_SERVERS):
        return []
    cluster = f'{label}=~"$cluster"'
    if metric == "ALERTS":
        # Alerts of a ruler about itself, the watchdog among them, are of no cluster.
        return [f'{label}=~"$cluster|"']
    if metric == THRESHOLD:
        return ['job=""']
    if metric.startswith("gpuheal:") and not OF_TARGETS.fullmatch(metric):
        return ['job=""', cluster]
    of = "responder" if _OF_RESPONDER.match(metric) else source(metric)
    return [f'job=~"{options.job(of)}"', cluster]
