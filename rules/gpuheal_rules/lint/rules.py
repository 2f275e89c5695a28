"""Checks on rules as wholes: labels, annotations, severity, names, groups, and what a set of rules has to contain."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import promql_parser as pp

from gpuheal_rules.lint.flow import matchers, metric_names, nodes, selectors
from gpuheal_rules.lint.promql import Subject, found
from gpuheal_rules.lint.source import Finding, Rule, Sources

ALERT_LABELS = frozenset(
    {"fault", "scope", "node", "gpu_uuid", "xid", "severity", "namespace", "rack", "zone", "fabric_domain"}
)
"""All that an alert may carry besides its name and the site's external labels (the alert contract)."""

REQUIRED_LABELS = ("fault", "scope", "severity", "namespace")
SEVERITIES = frozenset({"critical", "warning", "info"})
SCOPES = frozenset({"gpu", "node", "fabric", "domain", "fleet"})
CHURNING = frozenset(
    {"err_code", "err_msg", "pod", "container", "exported_pod", "exported_container", "exported_namespace", "instance"}
    | {"health_error_code", "DCGM_FI_DRIVER_VERSION", "driver_version", "timestamp", "value", "window_size_in_ms"}
)
"""Labels that change while the fault stays: the alert would be a new one each time (new startsAt, lost silence)."""

REQUIRED_ANNOTATIONS = ("summary", "description", "runbook_url")
ALERT_NAME = re.compile(r"(GPU|NVLink|NVSwitch)[A-Za-z0-9]+")
RECORD_NAME = re.compile(r"[a-z_][a-z0-9_]*(:[a-z0-9_]+){1,2}")
TEMPLATE_LABEL = re.compile(r"\$labels\.([A-Za-z_][A-Za-z0-9_]*)|(?<!\w)\.Labels\.([A-Za-z_][A-Za-z0-9_]*)")
TEMPLATE_BLOCK = re.compile(r"\{\{-?\s*(range|with)\b")
"""Inside of these the dot, and a variable of theirs, is a sample of some query and not the alert."""
TEMPLATE_VALUE = re.compile(r"\$value|\.Value")
GROUP_KEYS = {"query_offset": "2.53", "labels": "3.0", "evaluation_delay": "no Prometheus"}
KEPT_STATES = frozenset({"KeepLast", "OK", "Ok", "KeepLastState"})
OWN_CONDITIONS = ("GPUHealthy", "NVLinkHealthy", "GPUDriverHealthy", "GPUMemoryHealthy")
OWN = {
    "kube_node_status_condition": (
        "condition",
        ("GPUHealthy", "NVLinkHealthy", "GPUDriverHealthy", "GPUMemoryHealthy"),
    ),
    "kube_node_spec_taint": ("key", ("gpu.health/unhealthy", "gpu.health/suspect")),
}
"""What kube-state-metrics shows of our own doing: metric → label and the values that are ours (labels.yaml)."""

SOURCES = {
    "dcgm-exporter": re.compile(r"DCGM_\w+"),
    "gpuheal's exporter": re.compile(r"gpuheal_(xid|gpu|nvlink|driver|kmsg|nvml|node|exporter)_\w+"),
    "kube-state-metrics": re.compile(r"kube_\w+"),
    "nvidia-smi exporters": re.compile(r"(nvidia_(smi|gpu)|nvsmi)_\w+"),
    "Autopilot": re.compile(r"autopilot_\w+"),
}


RAW = re.compile(r"(gpuheal|DCGM)_|gpuheal:")


def labels(it: Subject) -> Iterator[Finding]:
    """An alert carries exactly the contract's labels, with values that do not change while it fires."""
    if not it.rule.alert:
        return
    for label, value in it.rule.labels.items():
        if "{{" in value:
            problem = f"label {label} is a template: each new value is a new alert"
            yield found(it.rule, "labels", problem, "values belong into annotations")
        if label in CHURNING or label not in ALERT_LABELS:
            yield found(it.rule, "labels", f"label {label} is not in the alert contract")
    for label in REQUIRED_LABELS:
        if not it.rule.labels.get(label):
            yield found(it.rule, "labels", f"label {label} is missing")
    scope = it.rule.labels.get("scope", "")
    if scope and scope not in SCOPES:
        yield found(it.rule, "labels", f"scope {scope!r} is none of {', '.join(sorted(SCOPES))}")
    if it.rule.tree is not None:
        yield from _carried(it, scope)


def _carried(it: Subject, scope: str) -> Iterator[Finding]:
    """What the expression itself brings along."""
    shape = it.flow.shape(it.rule.tree)
    if not shape.closed:
        names = sorted({name for s in selectors(it.rule.tree) for name in metric_names(s)})
        problem = f"the alert gets every label of {', '.join(names) or 'its series'}, pod and error code included"
        yield found(it.rule, "labels", problem, "aggregate by (node, gpu_uuid)")
        return
    for label in sorted(shape.names - ALERT_LABELS - {it.cluster_label}):
        churns = " and changes while the fault stays" if label in CHURNING else ""
        yield found(it.rule, "labels", f"the expression leaves label {label}, which is not in the contract{churns}")
    for label in {"gpu": ("node", "gpu_uuid"), "node": ("node",)}.get(scope, ()):
        if not shape.may_have(label):
            yield found(it.rule, "labels", f"scope {scope} needs label {label}, which the expression aggregates away")


def texts(it: Subject) -> Iterator[Finding]:
    """An alert says what is wrong, with labels that exist, and where to read on."""
    if not it.rule.alert:
        return
    for name in REQUIRED_ANNOTATIONS:
        if not it.rule.annotations.get(name, "").strip():
            yield found(it.rule, "annotations", f"annotation {name} is missing")
    url = it.rule.annotations.get("runbook_url", "")
    if url and not re.match(r"https?://", url):
        yield found(it.rule, "annotations", f"runbook_url {url!r} is not an address")
    if it.rule.tree is None:
        return
    shape = it.flow.shape(it.rule.tree)
    for place, text in (*it.rule.annotations.items(), *it.rule.labels.items()):
        for match in TEMPLATE_LABEL.finditer(text):
            label = match[1] or match[2]
            if match[2] and TEMPLATE_BLOCK.search(text):
                continue
            if label not in it.rule.labels and not shape.may_have(label):
                problem = f"{place} uses $labels.{label}, which the expression aggregates away: it shows as nothing"
                yield found(it.rule, "label-flow", problem)


def record_flow(it: Subject) -> Iterator[Finding]:
    """A rule selects and groups only by labels that the recording rules it reads leave over."""
    if it.rule.tree is None:
        return
    for selector in selectors(it.rule.tree):
        for name in metric_names(selector):
            if not it.flow.recorded(name):
                continue
            if not it.flow.recorders(selector):
                problem = f"{selector} matches none of the rules that record {name}"
                yield found(it.rule, "label-flow", problem)
                continue
            wanted = {str(m.name) for m in selector.matchers.matchers if str(m.value) and "NotEq" not in str(m.op)}
            for label in sorted(wanted - {"__name__"}):
                if not any(it.flow.rule_shape(rule).may_have(label) for rule in it.flow.recorders(selector)):
                    problem = f"{selector} matches on {label}, which {name} does not have"
                    yield found(it.rule, "label-flow", problem)


def severity(it: Subject) -> Iterator[Finding]:
    """The severity is one of three, and fixed."""
    if it.rule.alert and "severity" in it.rule.labels and it.rule.labels["severity"] not in SEVERITIES:
        value = it.rule.labels["severity"]
        yield found(it.rule, "severity", f"severity {value!r} is none of {', '.join(sorted(SEVERITIES))}")


def names(it: Subject) -> Iterator[Finding]:
    """Alerts are CamelCase with our prefix, recorded series level:metric:operation."""
    if it.rule.alert and not ALERT_NAME.fullmatch(it.rule.name):
        yield found(it.rule, "name", f"alert name {it.rule.name!r} does not start with GPU or NVLink, in CamelCase")
    if not it.rule.alert and not RECORD_NAME.fullmatch(it.rule.name):
        yield found(it.rule, "name", f"recorded name {it.rule.name!r} is not level:metric:operation")


def dependencies(it: Subject) -> Iterator[Finding]:
    """Nothing reads a gpuheal: series that no rule records."""
    if it.rule.tree is None:
        return
    for selector in selectors(it.rule.tree):
        for name in metric_names(selector):
            if name.startswith("gpuheal:") and not it.flow.recorded(name):
                yield found(it.rule, "dead", f"{name} is recorded by no rule")


def own_words(it: Subject) -> Iterator[Finding]:
    """No rule reads the node conditions and taints we write ourselves: the system would believe its own words."""
    if it.rule.tree is None:
        return
    for selector in selectors(it.rule.tree):
        used = metric_names(selector)
        label, words = next(((OWN[name]) for name in used if name in OWN), ("", ()))
        if not label:
            continue
        pairs = [(sign, value) for name, sign, value in matchers(selector) if name == label]
        heard = [word for word in words if all(_passes(word, sign, value) for sign, value in pairs)]
        if heard:
            yield found(it.rule, "own-words", f"{selector} also reads what gpuheal itself writes: {', '.join(heard)}")


def _passes(value: str, sign: str, pattern: str) -> bool:
    """Whether a label value passes a matcher; a pattern that does not compile counts as passed."""
    try:
        equal = re.fullmatch(pattern, value) is not None if sign.endswith("~") else value == pattern
    except re.error:
        return True
    return equal == (sign in {"=", "=~"})


def origin(subject: Subject) -> Iterator[Finding]:
    """Series are read from their own job, recorded ones from none: a scraped pod can show any name and node."""
    if subject.rule.tree is None:
        return
    for selector in selectors(subject.rule.tree):
        names = [name for name in metric_names(selector) if RAW.match(name)]
        if names and "job" not in {label for label, _sign, _value in matchers(selector)}:
            fix = 'add the matcher job=""' if ":" in names[0] else "add a matcher on job"
            yield found(subject.rule, "origin", f"reads {names[0]} from any target that exposes it", fix)


CHECKS = (origin, labels, texts, own_words, record_flow, severity, names, dependencies)


def groups(sources: Sources) -> Iterator[Finding]:
    """Groups use no `limit` and only keys that Prometheus 2.42 knows."""
    for group in sources.groups:
        if group.keys.get("limit"):
            problem = "limit: exceeding it clears every alert of the rule, which Alertmanager treats as resolved"
            yield Finding(check="limit", file=group.file, where=group.name, problem=problem)
        for key, since in GROUP_KEYS.items():
            if key in group.keys:
                problem = f"{key} needs {since}; 2.42 refuses the whole file"
                yield Finding(check="portable", file=group.file, where=group.name, problem=problem)


def one_severity(rules: Sequence[Rule]) -> Iterator[Finding]:
    """An alertname has one severity and one fault: stock inhibition lets its critical form mute the others."""
    seen: dict[tuple[str, str], tuple[str, Rule]] = {}
    for rule in rules:
        if not rule.alert:
            continue
        for label, check in (("severity", "severity"), ("fault", "contract")):
            value = rule.labels.get(label, "")
            first, _ = seen.setdefault((rule.name, label), (value, rule))
            if first != value:
                yield found(rule, check, f"{rule.name} has {label} {first!r} in one place and {value!r} here")


def duplicates(rules: Sequence[Rule]) -> Iterator[Finding]:
    """No two rules of a file write the same series; matchers that differ keep recorded series apart."""
    seen: dict[tuple[str, ...], Rule] = {}
    for rule in rules:
        if rule.tree is None:
            continue
        static = ",".join(f"{name}={value}" for name, value in sorted(rule.labels.items()))
        selected = sorted(str(matcher) for selector in selectors(rule.tree) for matcher in matchers(selector))
        key = (rule.file, rule.name, static, rule.expr if rule.alert else ",".join(selected))
        if key in seen:
            yield found(rule, "duplicate", f"writes the same series as {seen[key].where}")
        seen.setdefault(key, rule)


def registration(rules: Sequence[Rule]) -> Iterator[Finding]:
    """Rules that read a source come with an alert for its absence; else a missing exporter is a silent no-op."""
    read: dict[str, Rule] = {}
    watched: set[str] = set()
    for rule in rules:
        if rule.tree is None:
            continue
        used = [name for selector in selectors(rule.tree) for name in metric_names(selector)]
        sources = {source for source, pattern in SOURCES.items() if any(map(pattern.fullmatch, used))}
        for source in sources:
            read.setdefault(source, rule)
        if rule.alert and (rule.labels.get("fault") in {"telemetry-missing", "pipeline-broken"} or "up" in used):
            watched |= set(SOURCES)
        if rule.alert and _looks_for_absence(rule):
            watched |= sources
    for source, rule in read.items():
        if source not in watched:
            problem = f"reads {source}, and no alert says when {source} is not there: the rules are then silently dead"
            yield found(rule, "registration", problem, "an alert on up or on telemetry-missing")


def _looks_for_absence(rule: Rule) -> bool:
    calls = (str(node.func.name) for node in nodes(rule.tree) if isinstance(node, pp.Call))
    return not {"absent", "absent_over_time"}.isdisjoint(calls)


def keep_last(data: Any, file: str, path: str = "") -> Iterator[Finding]:
    """Grafana's alerts do not keep their last state, or call it fine, when there is no data."""
    if isinstance(data, Mapping):
        for key, value in data.items():
            if key in {"noDataState", "execErrState"} and value in KEPT_STATES:
                problem = f"{key}: {value} keeps a missing GPU healthy"
                yield Finding(check="keep-last", file=file, where=path.lstrip("."), problem=problem)
            else:
                yield from keep_last(value, file, f"{path}.{key}")
    elif isinstance(data, list):
        for index, value in enumerate(data):
            yield from keep_last(value, file, f"{path}[{index}]")
