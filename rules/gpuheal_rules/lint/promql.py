"""Checks on single expressions: what runs everywhere, and what can fire at all.

Each check is a generator over one rule; `CHECKS` lists them.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta

import promql_parser as pp

from gpuheal_rules.lint.flow import (
    Flow,
    bare,
    matchers,
    metric_names,
    nodes,
    number,
    selectors,
)
from gpuheal_rules.lint.source import Finding, Node, Rule

# Functions of Prometheus 2.42 that 3.x has too with the same meaning; holt_winters was renamed in 3.0, histogram_* of
# native histograms were experimental (prometheus/prometheus docs/querying/functions.md, CHANGELOG 2.42 to 3.14).
FUNCTIONS = re.compile(
    r"abs|absent|absent_over_time|acos|acosh|asin|asinh|atan|atanh|avg_over_time|ceil"
    r"|changes|clamp|clamp_max|clamp_min|cos|cosh|count_over_time|day_of_month|"
    r"day_of_week|day_of_year|days_in_month|deg|delta|deriv|exp|floor|histogram_quantile|"
    r"hour|idelta|increase|irate|label_join|label_replace|last_over_time|ln|log10|log2|"
    r"max_over_time|min_over_time|minute|month|pi|predict_linear|present_over_time|"
    r"quantile_over_time|rad|rate|resets|round|scalar|sgn|sin|sinh|sort|sort_desc|"
    r"sqrt|stddev_over_time|stdvar_over_time|sum_over_time|tan|tanh|time|timestamp|vector"
    r"|year"
)
AGGREGATIONS = re.compile("sum|min|max|avg|group|stddev|stdvar|count|count_values|bottomk|topk|quantile")
CHANGES = frozenset({"changes", "delta", "deriv", "idelta", "increase", "irate", "predict_linear", "rate", "resets"})
COMPARE: Mapping[str, Callable[[float, float], bool]] = {
    "==": operator.eq, "!=": operator.ne, "<": operator.lt, ">": operator.gt, "<=": operator.le, ">=": operator.ge,
}  # fmt: skip
COMPARISONS = frozenset(COMPARE)
XID_SERIES = re.compile(r"(?i)(^|[_:])s?xid([_:]|s?_err|$)|XID_ERROR")
XID_GAUGES = frozenset({"DCGM_FI_DEV_XID_ERRORS", "DCGM_FI_DEV_XID_ERROR"})
XID_CODES = ("err_code", "err_msg")
IDENTITIES = frozenset({"node", "Hostname", "hostname", "instance", "host", "UUID", "uuid", "gpu_uuid", "pci_bus_id"})
OLD_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
MIN_SAMPLES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What a check looks at: one rule, with what the others record."""

    rule: Rule
    flow: Flow
    scrape_interval: timedelta
    exported: frozenset[str] = frozenset()
    """Fields of dcgm-exporter that are there to be read."""

    cluster_label: str = ""
    """The label that tells several clusters under one ruler apart; empty = there is one cluster."""


Check = Callable[[Subject], Iterator[Finding]]


def found(rule: Rule, check: str, problem: str, hint: str = "") -> Finding:
    """A finding about a rule."""
    return Finding(check=check, file=rule.file, where=rule.where, problem=problem, hint=hint)


def text(node: Node, limit: int = 90) -> str:
    """The node on one line, cut when long."""
    line = " ".join(str(node).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def syntax(it: Subject) -> Iterator[Finding]:
    """The expression parses."""
    if it.rule.tree is None:
        yield found(
            it.rule, "syntax", f"does not parse: {it.rule.problem}", "or uses something Prometheus 2.42 does not have"
        )


def portable(it: Subject) -> Iterator[Finding]:
    """Only functions, aggregations and spellings that both Prometheus 2.42 and 3.x know with one meaning."""
    for node in nodes(it.rule.tree):
        match node:
            case pp.Call() if not FUNCTIONS.fullmatch(str(node.func.name)):
                yield found(it.rule, "portable", f"{node.func.name}() is not in Prometheus 2.42 and 3.x alike")
            case pp.AggregateExpr() if not AGGREGATIONS.fullmatch(str(node.op)):
                yield found(it.rule, "portable", f"{node.op} is not in Prometheus 2.42")
            case pp.BinaryExpr() if node.modifier is not None and _fills(node):
                yield found(it.rule, "portable", "fill modifiers are not in Prometheus 2.42")
            case pp.VectorSelector():
                if node.matchers.or_matchers:
                    yield found(it.rule, "portable", "`or` between matchers is not Prometheus")
                for name in _new_names(node):
                    yield found(it.rule, "portable", f"{name!r} needs UTF-8 names, which 2.42 does not have")


def _new_names(selector: Node) -> Iterator[str]:
    """The names that 2.42 does not allow; a pattern may hold any sign, as long as it can find an old name."""
    for matcher in selector.matchers.matchers:
        spelt = [str(matcher.name)]
        if matcher.name == "__name__":
            spelt = [str(matcher.value)] if str(matcher.op) == "MatchOp.Equal" else []
        yield from (name for name in spelt if not OLD_NAME.fullmatch(name))


def _fills(node: Node) -> bool:
    fill = node.modifier.fill_values
    return fill is not None and (fill.lhs is not None or fill.rhs is not None)


def ranges(it: Subject) -> Iterator[Finding]:
    """Every window holds at least four samples; Prometheus 3 leaves the left edge out, so three may be two there."""
    for node in nodes(it.rule.tree):
        if isinstance(node, pp.MatrixSelector):
            recorders = it.flow.recorders(node.vector_selector)
            step = max([it.scrape_interval, *(other.interval for other in recorders)])
            if recorders:
                step = max(other.interval for other in recorders)
            if node.range < step * MIN_SAMPLES:
                yield _short(it.rule, node, node.range, step)
        elif isinstance(node, pp.SubqueryExpr):
            span, step = node.range, node.step or it.rule.interval
            if span is not None and span < step * MIN_SAMPLES:
                yield _short(it.rule, node, span, step)


def _short(rule: Rule, node: Node, span: timedelta, step: timedelta) -> Finding:
    count = span / step
    problem = f"{text(node)}: {span.total_seconds():g}s hold about {count:g} samples, fewer than {MIN_SAMPLES}"
    return found(rule, "range", problem, f"at least {(step * MIN_SAMPLES).total_seconds():g}s")


def xid_changes(it: Subject) -> Iterator[Finding]:
    """No change function on Xid series: a new code is a new series, and a first event has no before."""
    for node in nodes(it.rule.tree):
        if not isinstance(node, pp.Call) or str(node.func.name) not in CHANGES:
            continue
        if str(node.func.name) == "changes" and _one_gauge(it, node.args[0]):
            continue
        for selector in selectors(node):
            names = metric_names(selector)
            if any(XID_SERIES.search(name) for name in names):
                problem = f"{node.func.name}() on {names[0]} never sees a first Xid, and 79 after 45 looks like a reset"
                yield found(it.rule, "xid-change", problem, "use the latch's timestamps")


def _one_gauge(it: Subject, node: Node) -> bool:
    """Whether a range holds dcgm-exporter's gauge without the code among its labels: its changes are new codes."""
    if isinstance(node, pp.MatrixSelector):
        node = node.vector_selector
    shape = it.flow.shape(node)
    return _origins(it, node) <= XID_GAUGES and not any(map(shape.may_have, XID_CODES))


def _origins(it: Subject, node: Node, depth: int = 8) -> set[str]:
    """The raw metrics an expression reads, through recording rules."""
    found_names: set[str] = set()
    for selector in selectors(node):
        rules = it.flow.recorders(selector) if depth else []
        found_names |= set() if rules else set(metric_names(selector))
        for rule in rules:
            found_names |= set() if rule.tree is None else _origins(it, rule.tree, depth - 1)
    return found_names


def absence(it: Subject) -> Iterator[Finding]:
    """absent() is not used for one of many: it is true only when the last of all series is gone."""
    for node in nodes(it.rule.tree):
        if not isinstance(node, pp.Call) or str(node.func.name) not in {"absent", "absent_over_time"}:
            continue
        whole_job = all(metric_names(selector) == ["up"] or _names_one(selector) for selector in selectors(node))
        if it.rule.alert and it.rule.labels.get("scope") != "fleet" and not whole_job:
            problem = f"{text(node)} fires only when the whole fleet is gone, and carries no node"
            yield found(it.rule, "absent", problem, "compare with what is known: known unless on (…) present")
        elif it.rule.alert and it.rule.wait < it.scrape_interval * 2 and str(node.func.name) == "absent":
            problem = f"{text(node)} without `for`: one late scrape or a restart fires it"
            yield found(it.rule, "absent", problem, "for: at least two scrapes")


def _names_one(selector: Node) -> bool:
    """Whether a selector says which node or GPU it is about; absent() carries such labels on."""
    return any(label in IDENTITIES and sign == "=" and value for label, sign, value in matchers(selector))


def presence(it: Subject) -> Iterator[Finding]:
    """A count that is compared cannot vanish together with what it counts."""
    for node in nodes(it.rule.tree):
        if not isinstance(node, pp.BinaryExpr) or str(node.op) not in COMPARISONS:
            continue
        left, right = bare(node.lhs), bare(node.rhs)
        limit = number(right)
        if _compares_with_before(left, right):
            problem = f"{text(node)} is quiet once the offset has passed, and when the left side is empty"
            yield found(it.rule, "presence", problem, "remember what was known in a recording rule that reads itself")
        elif _counts(left) and _below(node, limit):
            problem = f"{text(node)}: when everything is gone the count is gone too, and nothing fires"
            yield found(it.rule, "presence", problem, "give the count a zero: count … or 0 * max by (node) (up)")
        elif limit == 0 and str(node.op) == "==" and _counts_devices(left):
            problem = f"{text(node)} fires only when all are gone; losing one of eight is silent"
            yield found(it.rule, "presence", problem, "compare with the inventory")


def _counts(node: Node) -> bool:
    """count(…) of series; count(count_values(…)) counts versions, which is something else."""
    if not isinstance(node, pp.AggregateExpr) or str(node.op) != "count":
        return False
    inner = bare(node.expr)
    return not (isinstance(inner, pp.AggregateExpr) and str(inner.op) == "count_values")


def _below(node: Node, limit: float | None) -> bool:
    if str(node.op) == "!=":
        return True
    return str(node.op) in {"<", "<="} or (str(node.op) == "==" and limit == 0)


def _compares_with_before(left: Node, right: Node) -> bool:
    """count(x) < count(x offset 10m), also with a maximum over the past."""
    if not isinstance(left, pp.AggregateExpr) or str(left.op) not in {"count", "sum", "group"}:
        return False
    mine = {name for selector in selectors(left) for name in metric_names(selector)}
    return any(selector.offset is not None and mine & set(metric_names(selector)) for selector in selectors(right))


def _counts_devices(node: Node) -> bool:
    return any(re.search(r"(device|gpu)s?_(total|count)$", n) for s in selectors(node) for n in metric_names(s))


def fail_open(it: Subject) -> Iterator[Finding]:
    """Missing data is never turned into health, and a dead reading is never filtered away before it is judged."""
    for node in nodes(it.rule.tree):
        if not isinstance(node, pp.BinaryExpr):
            continue
        op = str(node.op)
        value = constant(node.rhs)
        derived = any(it.flow.recorded(name) for s in selectors(node.rhs) for name in metric_names(s))
        if op == "or" and value and not derived and constant(node.lhs) is None:
            problem = f"`or {text(node.rhs, 50)}`: what is missing counts as {value:g}"
            yield found(it.rule, "fail-open", problem, "leave it missing, and show it as unknown")
        left, limit = bare(node.lhs), number(node.rhs)
        if op in {"<", "<=", "=="} and limit is not None and _drops_zero(left):
            problem = f"{text(node)}: the inner filter drops the readings the outer one looks for"
            yield found(it.rule, "fail-open", problem, "a dead link that reads 0 never alerts")
        if limit is not None and not holds(0.0, op, limit) and _adds_up_zeros(left):
            problem = f"{text(node)}: what reads 0 passes the inner filter and adds nothing, so it never alerts"
            yield found(it.rule, "fail-open", problem, "count(…) of what passes, or a sum of its `bool`")


def _adds_up_zeros(node: Node) -> bool:
    """`sum(x <= 4)` and the like without bool: values that pass a filter are added up, 0 among them."""
    if not isinstance(node, pp.AggregateExpr) or str(node.op) not in {"sum", "avg"}:
        return False
    inner = bare(node.expr)
    while isinstance(inner, pp.AggregateExpr) and str(inner.op) in {"sum", "avg"}:
        inner = bare(inner.expr)
    if not isinstance(inner, pp.BinaryExpr) or str(inner.op) not in COMPARISONS:
        return False
    limit = number(inner.rhs)
    counts = inner.modifier is not None and inner.modifier.return_bool
    return limit is not None and not counts and holds(0.0, str(inner.op), limit)


def holds(value: float, op: str, limit: float) -> bool:
    """Whether a comparison keeps a value; any other operator does."""
    return COMPARE[op](value, limit) if op in COMPARE else True


def _drops_zero(node: Node) -> bool:
    """`… > 0` without bool, through sums: what reads 0 is gone."""
    node = bare(node)
    if isinstance(node, pp.AggregateExpr):
        return _drops_zero(node.expr)
    if not isinstance(node, pp.BinaryExpr) or str(node.op) not in {">", "!="} or number(node.rhs) != 0:
        return False
    return node.modifier is None or not node.modifier.return_bool


def constant(node: Node) -> float | None:
    """The value of vector(c), x * 0 + c, (x > bool -1) and the like, whatever x is; None when it depends on data."""
    node = bare(node)
    if isinstance(node, pp.Call) and str(node.func.name) == "vector":
        return number(node.args[0])
    if isinstance(node, pp.AggregateExpr):
        return constant(node.expr) if str(node.op) in {"min", "max", "avg"} else None
    if not isinstance(node, pp.BinaryExpr):
        return None
    left, right, op = number(node.lhs), number(node.rhs), str(node.op)
    if op == "*" and (left == 0 or right == 0):
        return 0.0
    if op == "^" and right == 0:
        return 1.0
    inner = constant(node.lhs) if right is not None else constant(node.rhs) if left is not None else None
    if inner is None or op not in {"+", "-", "*"}:
        return None
    other = right if right is not None else left
    return None if other is None else {"+": inner + other, "-": inner - other, "*": inner * other}[op]


def cost(it: Subject) -> Iterator[Finding]:
    """No subquery over raw series: it is evaluated for every step and every GPU."""
    for node in nodes(it.rule.tree):
        if isinstance(node, pp.SubqueryExpr):
            raw = [name for s in selectors(node) for name in metric_names(s) if not it.flow.recorded(name)]
            if raw:
                problem = f"{text(node)} is a subquery over raw series ({', '.join(sorted(set(raw)))})"
                yield found(it.rule, "cost", problem, "record the inner expression first")


def forecasts(it: Subject) -> Iterator[Finding]:
    """A forecast rests on enough samples, and nobody acts on it: one step of a counter extrapolates to doom."""
    calls = [str(node.func.name) for node in nodes(it.rule.tree) if isinstance(node, pp.Call)]
    if not {"predict_linear", "deriv"} & set(calls):
        return
    if "count_over_time" not in calls:
        yield found(it.rule, "forecast", "forecasts from any number of samples", "and count_over_time(…) > 60")
    if it.rule.labels.get("severity") == "critical":
        yield found(it.rule, "forecast", "a forecast is critical: somebody would act on it", "warning or info")


CHECKS: tuple[Check, ...] = (portable, ranges, xid_changes, absence, presence, fail_open, cost, forecasts)
"""Checks for expressions that parse; `syntax` speaks for the others."""
