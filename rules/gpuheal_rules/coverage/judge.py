"""Which rules can ever give a series, followed from the raw metrics through the recording rules to the alerts.

A rule can give something when all that it must have is there and one of what it may have; what excludes (`unless`)
need not be there. Rules that read themselves can give what they are first given by others.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import promql_parser as pp

from gpuheal_rules.catalogue.model import Catalogue
from gpuheal_rules.coverage.seen import Seen
from gpuheal_rules.lint.flow import children, matchers, metric_names, on_labels, selectors
from gpuheal_rules.lint.source import Node, Rule, parse
from gpuheal_rules.options import Options
from gpuheal_rules.promql import origin
from gpuheal_rules.promql.rule import EVIDENCE, AlertRule, Group

SIGN = {"exporter": "gpuheal_exporter_heartbeat_timestamp_seconds", "responder": "gpuheal_leader"}
"""What a source shows whenever it is there; most of its other metrics come with the first fault or case."""

READERS = {"gpuheal_kmsg_up": re.compile("gpuheal_(xid|sxid|kernel_fault)_.+")}
READERS["gpuheal_nvml_up"] = re.compile("gpuheal_(gpu_(?!pod_info).+|nvml_devices|nvml_driver_info)")
"""Without the kernel log, or without NVML, the exporter shows none of these."""

NOW_AND_THEN = frozenset({"kube_node_spec_taint"})
"""Metrics of kube-state-metrics that are there only while something has them."""


TRACED = frozenset({"fault", "class", "signal", "source", "problem", "strength", "what"})
"""Static labels of recording rules by which others choose."""

RECOVERED = "gpuheal:recovered_"
"""What comes back after a start of Prometheus was there before."""


@dataclass(frozen=True, slots=True, order=True, kw_only=True)
class Need:
    """Something that is missing: a metric, the job that shows it, a label, or a reader; and what to do about it."""

    source: str
    kind: str
    what: str
    hint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One evidence of a fault, and what it is missing."""

    witness: str
    signal: str
    weak: bool
    missing: tuple[Need, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Covered:
    """What can become of one alert: `fires`, `weaker` (some evidence cannot be seen) or `never`."""

    alert: str
    fault: str
    severity: str
    verdict: str
    missing: tuple[Need, ...]
    ways: tuple[Way, ...] = ()


def source_of(name: str) -> str:
    """Return the source of a raw metric."""
    if name.startswith("kube_"):
        return "ksm"
    return "prometheus" if name.startswith("prometheus_") else "targets" if name == "up" else origin.source(name)


def raw_names(groups: Sequence[Group]) -> set[str]:
    """Return the names of all raw metrics that the rules read."""
    found = {name for rule in _parsed(groups) for s in selectors(rule.tree) for name in metric_names(s)}
    return {name for name in found if ":" not in name} | set(SIGN.values()) | set(READERS)


def looked_for(options: Options) -> frozenset[str]:
    """Return the labels without which a source is of no use."""
    return frozenset({"node", options.labels.node, "gpu_uuid", *options.labels.gpu})


def covered(catalogue: Catalogue, options: Options, groups: Sequence[Group], seen: Seen) -> list[Covered]:
    """Return what can become of each alert, in the catalogue's order."""
    judge = _Judge(_parsed(groups), seen, options, _aliases(catalogue))
    found = []
    for fault, alert in catalogue.alerts():
        rule = judge.rule(alert.name)
        ways: tuple[Way, ...] = ()
        if alert.expr:
            missing = judge.missing(rule.tree)
            verdict = "never" if missing else "fires"
        else:
            ways = tuple(_ways(judge, fault.slug))
            # Weak evidence of a severe fault counts only beside strong evidence.
            enough = [way for way in ways if not way.missing and not (way.weak and fault.state == "faulty")]
            missing = {need for way in ways for need in way.missing}
            verdict = "never" if not enough else "weaker" if missing else "fires"
        found.append(
            Covered(
                alert=alert.name,
                fault=fault.slug,
                severity=alert.severity,
                verdict=verdict,
                missing=tuple(sorted(missing)),
                ways=ways,
            )
        )
    return found


def _ways(judge: _Judge, fault: str) -> Iterator[Way]:
    for rule in judge.recorded(EVIDENCE):
        if rule.labels["fault"] == fault:
            yield Way(
                witness=rule.labels["class"],
                signal=rule.labels["signal"],
                weak=rule.labels["strength"] == "weak",
                missing=tuple(sorted(judge.missing(rule.tree))),
            )


def sources_of(options: Options, seen: Seen) -> Mapping[str, tuple[Need, ...]]:
    """Return what is wrong with each source as a whole: it is not there, or its labels are missing."""
    judge = _Judge([], seen, options, {})
    signs = {**SIGN, "dcgm": "DCGM_FI_DEV_GPU_TEMP", "ksm": "kube_node_status_condition"}
    return {source: tuple(judge.of_source(source, sign)) for source, sign in sorted(signs.items())}


def _parsed(groups: Sequence[Group]) -> list[Rule]:
    return [
        Rule(
            file="",
            group=group.name,
            index=index,
            interval=group.interval,
            name=rule.name,
            alert=isinstance(rule, AlertRule),
            expr=rule.expr,
            tree=parse(rule.expr)[0],
            problem="",
            labels=rule.labels,
            annotations={},
            wait=group.interval,
        )
        for group in groups
        for index, rule in enumerate(group.rules)
    ]


def _aliases(catalogue: Catalogue) -> Mapping[str, str]:
    """Return all names of a field by each of them."""
    found: dict[str, str] = {}
    for signal in catalogue.signals.values():
        count = max(len(signal.counters), 1)
        for index in range(count):
            names = signal.metrics[index::count]
            found |= dict.fromkeys(names, " or ".join(names))
    return found


_Only = frozenset[tuple[str, str, str]]
"""Matchers on traced labels that a result must meet."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class _Asked:
    """A recording rule, of whose results some are wanted."""

    rule: Rule
    only: _Only

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Asked) and self.rule is other.rule and self.only == other.only

    def __hash__(self) -> int:
        return hash((id(self.rule), self.only))


def _fits(static: str | None, sign: str, value: str) -> bool:
    """Return whether a static label, if there is one, meets a matcher."""
    if static is None:
        return True
    return (re.fullmatch(value, static) is not None if "~" in sign else static == value) == sign.startswith("=")


def _below(node: Node, only: _Only) -> list[tuple[Node, _Only]]:
    """Return the nodes below, with those matchers that still hold there: of labels that reach the result from there."""
    if isinstance(node, pp.BinaryExpr):
        labels = on_labels(node)
        across = only if str(node.op) == "or" or not labels else frozenset(one for one in only if one[0] in labels)
        return [(node.lhs, only), (node.rhs, across)]
    if isinstance(node, pp.AggregateExpr):
        kept = {str(label) for label in node.modifier.labels} if node.modifier is not None else set()
        only = frozenset(one for one in only if one[0] in kept)
    return [(child, only) for child in children(node)]


class _Judge:
    """Knows what is there, and which recording rules can give something, with which static labels of what they read."""

    def __init__(self, rules: Sequence[Rule], seen: Seen, options: Options, aliases: Mapping[str, str]) -> None:
        self._rules, self._seen, self._options, self._aliases = rules, seen, options, aliases
        self._records: dict[str, list[Rule]] = {}
        for rule in rules:
            if not rule.alert and not rule.name.startswith(RECOVERED):
                self._records.setdefault(rule.name, []).append(rule)
        self._gives: dict[_Asked, bool] = {}

    def rule(self, alert: str) -> Rule:
        """Return the rule of an alert."""
        return next(rule for rule in self._rules if rule.alert and rule.name == alert)

    def recorded(self, name: str) -> Iterator[Rule]:
        """Return the rules that record a name."""
        return (rule for rule in self._rules if not rule.alert and rule.name == name)

    def missing(self, node: Node) -> set[Need]:
        """Return what keeps an expression from ever giving a series; empty when nothing does."""
        # What a rule can give only grows with what others can, so this comes to an end. Rules that were looked at
        # before depend on none that is new.
        settled = frozenset(self._gives)
        while True:
            before = dict(self._gives)
            possible = self._can(node, frozenset())
            for asked in [one for one in self._gives if one not in settled]:
                self._gives[asked] = self._gives[asked] or self._can(asked.rule.tree, asked.only)
            if self._gives == before:
                return set() if possible else set(self._why(node, frozenset(), set()))

    def of_source(self, source: str, sign: str) -> Iterator[Need]:
        """Yield what keeps a source from being of any use."""
        job = self._options.jobs[source] if source in NAMED else ".*"
        absent = self._absent(source, sign, job)
        if absent is not None:
            yield absent
        elif source in LABELLED:
            yield from self._labels(source)

    def _recorders(self, selector: Node, only: _Only) -> list[_Asked]:
        """Return the rules that a selector can see, each with what is left to be asked of what it reads."""
        asked = only | {found for found in matchers(selector) if found[0] in TRACED}
        found = []
        for name in metric_names(selector):
            for rule in self._records.get(name, []):
                if all(_fits(rule.labels.get(label), sign, value) for label, sign, value in asked):
                    rest = frozenset(one for one in asked if one[0] not in rule.labels)
                    found.append(_Asked(rule=rule, only=rest))
        return found

    def _can(self, node: Node, only: _Only) -> bool:
        if isinstance(node, pp.VectorSelector):
            if ":" in (node.name or ""):
                known = [self._gives.setdefault(asked, False) for asked in self._recorders(node, only)]
                return any(known)
            return not any(True for _ in self._needs(node))
        if isinstance(node, pp.BinaryExpr):
            left, right = (self._can(child, kept) for child, kept in _below(node, only))
            op = str(node.op)
            return (left or right) if op == "or" else left and (right or op == "unless")
        if isinstance(node, pp.Call) and str(node.func.name).startswith("absent"):
            return True
        possible = [self._can(child, kept) for child, kept in _below(node, only)]
        return all(possible)

    def _why(self, node: Node, only: _Only, told: set[_Asked]) -> Iterator[Need]:
        """Yield what an expression that can give nothing is missing."""
        if isinstance(node, pp.VectorSelector):
            if ":" not in (node.name or ""):
                yield from self._needs(node)
                return
            for asked in self._recorders(node, only):
                if asked not in told:
                    told.add(asked)
                    yield from self._why(asked.rule.tree, asked.only, told)
            return
        for child, kept in _below(node, only):
            if self._can(child, kept):
                continue
            needs = list(self._why(child, kept, told))
            yield from needs
            if isinstance(node, pp.BinaryExpr) and (str(node.op) == "unless" or not (needs or str(node.op) == "or")):
                # What stands on the left is no other than the rule itself, or another signal's: the right is beside it.
                return

    def _needs(self, selector: Node) -> Iterator[Need]:
        """Yield what a raw selector is missing."""
        (name,) = metric_names(selector)
        pairs = matchers(selector)
        job = next((value for label, _sign, value in pairs if label == "job"), ".*")
        source = source_of(name)
        absent = self._absent(source, name, job)
        if absent is not None:
            yield absent
            return
        reader = next((one for one, pattern in READERS.items() if pattern.fullmatch(name)), "")
        if reader in self._seen.zero:
            yield Need(source=source, kind="reader", what=f"{reader} == 0", hint="it matches no series on any node")
        if source in LABELLED and not any(sign == "=" and not value for _label, sign, value in pairs):
            yield from self._labels(source)

    def _labels(self, source: str) -> Iterator[Need]:
        """Yield the labels that no series of the source has."""
        profile = self._options.labels
        names = {name for name in self._seen.jobs if source_of(name) == source}
        for label in [("node",)] if source == "exporter" else [(profile.node,), ("gpu_uuid", *profile.gpu)]:
            if self._seen.labelled and not any(names & self._seen.having[one] for one in label):
                hint = HINTS["node" if label[0] != "gpu_uuid" else "gpu_uuid"]
                yield Need(source=source, kind="label", what=f"label {' or '.join(label)}", hint=hint)

    def _absent(self, source: str, name: str, job: str) -> Need | None:
        """Return that the metric is not there, or that all of its source is not."""
        if source == "targets":
            if self._seen.shown(name, job):
                return None
            whose = next((one for one in NAMED if self._options.jobs[one] == job), "")
            whole = self._absent(whose, SIGN.get(whose, ""), job) if whose else None
            if whole is not None and whole.kind != "metric":
                return whole
            return Need(source=source, kind="job", what=f'up{{job=~"{job}"}}', hint="no such target is scraped")
        there = {one for one in self._seen.jobs if source_of(one) == source}
        if not any(self._seen.shown(one, job) for one in there):
            others = sorted({found for one in there for found in self._seen.jobs[one]} - {""})
            hint = f"shown by the job {', '.join(others)}, read from {job}: --job {source}=…" if others else ""
            return Need(source=source, kind="job" if others else "source", what=PARTS[source], hint=hint)
        sign = SIGN.get(source, name)
        if name in NOW_AND_THEN or self._seen.shown(sign, job):
            return None
        return Need(source=source, kind="metric", what=self._aliases.get(sign, sign), hint=HINTS.get(source, ""))


NAMED = frozenset({"exporter", "dcgm", "responder"})
"""Sources whose job the rules name."""

LABELLED = frozenset({"exporter", "dcgm"})
"""Sources whose targets must say their node."""

PARTS = {
    "exporter": "gpuheal-exporter",
    "dcgm": "dcgm-exporter",
    "ksm": "kube-state-metrics",
    "responder": "the responder",
    "prometheus": "Prometheus' own metrics",
}
HINTS = {
    "dcgm": "not in dcgm-exporter's counters CSV, or not supported by any GPU",
    "ksm": "excluded from kube-state-metrics' configuration",
    "node": "relabel __meta_kubernetes_pod_node_name to node, or build with --label-profile",
    "gpu_uuid": "dcgm-exporter's own label; build with another --label-profile",
}
