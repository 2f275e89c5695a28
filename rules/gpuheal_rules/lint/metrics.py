"""Checks that know the metrics: units, labels and lifetimes of dcgm-exporter's series, and what is noise.

Facts: NVIDIA/dcgm-exporter default-counters.csv and render_metrics.go, NVIDIA/DCGM dcgm_fields.h, threads as named.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from math import ceil, floor, inf, prod

import promql_parser as pp

from gpuheal_rules.catalogue.counters import STOCK
from gpuheal_rules.lint.flow import SET_OPERATORS, bare, matchers, metric_names, nodes, number, selectors
from gpuheal_rules.lint.promql import COMPARISONS, Check, Subject, found, text
from gpuheal_rules.lint.source import Finding, Node

# Labels dcgm-exporter and the scrape can put on a series; a matcher on any other label never matches.
DCGM_LABELS = re.compile(
    r"gpu|UUID|uuid|gpu_uuid|pci_bus_id|device|modelName|model_name|Hostname|hostname|GPU_I_(PROFILE|ID)"
    r"|err_code|err_msg|xid|window_size_in_ms|health_watch|health_error_code|health_error_level|clock_event"
    r"|throttle_reason|vgpu|nvlink|nvswitch|cpu|cpucore|hpc_job|(exported_)?(pod|container|namespace)|DCGM_FI_\w+"
    r"|job|instance|node|rack|zone|fabric_domain|cluster|endpoint|service|prometheus|le|quantile"
)
XID_ONLY = re.compile(r"DCGM_FI_DEV_XID_ERRORS?|DCGM_EXP_XID_ERRORS_COUNT")
HEALTH_WATCH = re.compile(r"DCGM_EXP_GPU_HEALTH_STATUS")
# Values that stay once they are there: lifetime counters, and the gauge that keeps the last Xid for ever.
LIFETIME = re.compile(
    r"DCGM_FI_DEV_(XID_ERRORS?|ECC_[SD]BE_(VOL|AGG)_(TOTAL|[A-Z0-9]+)|RETIRED_[SD]BE|PCIE_REPLAY_(COUNTER|TOTAL)"
    r"|(UN)?CORRECTABLE_REMAPPED_ROWS|ROW_REMAP_(UN)?CORRECTABLE_TOTAL|NVLINK_\w*ERROR(_COUNT)?(_TOTAL|_L\d+)?"
    r"|\w+_VIOLATION|NVSWITCH_(NON_)?FATAL_ERRORS|\w*REPLAY\w*TOTAL)|(?!kube_|gpuheal_).*_errors?_total"
)
PROFILING_GAUGES = re.compile(r"DCGM_FI_PROF_\w+")
GAUGES = re.compile(r"DCGM_FI_DEV_(\w*TEMP|\w*CLOCK|\w*UTIL|FB_\w+|POWER_USAGE)")
DEFAULT_COUNTERS = frozenset(STOCK)
# Fields that DCGM 4.6 renamed (dcgm_fields.h keeps the old names as aliases): a site's CSV may hold either.
RENAMED = {
    "DCGM_FI_DEV_XID_ERRORS": "DCGM_FI_DEV_XID_ERROR",
    "DCGM_FI_DEV_ROW_REMAP_FAILURE": "DCGM_FI_DEV_ROW_REMAP_FAILED",
    "DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS": "DCGM_FI_DEV_ROW_REMAP_UNCORRECTABLE_TOTAL",
    "DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS": "DCGM_FI_DEV_ROW_REMAP_CORRECTABLE_TOTAL",
    "DCGM_FI_DEV_PCIE_REPLAY_COUNTER": "DCGM_FI_DEV_PCIE_REPLAY_TOTAL",
    "DCGM_FI_DEV_GET_GPU_RECOVERY_ACTION": "DCGM_FI_DEV_GPU_RECOVERY_ACTION",
    "DCGM_FI_DEV_CLOCK_THROTTLE_REASONS": "DCGM_FI_DEV_CLOCKS_EVENT_REASONS",
}
VIOLATIONS = re.compile(r"DCGM_FI_DEV_\w+_VIOLATION|DCGM_FI_DEV_CLOCKS_EVENT_REASON_\w+_NS")
THROTTLE = re.compile(r"DCGM_FI_DEV_CLOCKS?_(THROTTLE|EVENT)_REASONS")
HARMLESS_BITS = frozenset({0x1, 0x2, 0x4})
"""Idle, application clocks and software power cap: normal life of a GPU (nvml.h, clocks event reasons)."""
HARMLESS_MASK = sum(HARMLESS_BITS)
FREE = re.compile(r"DCGM_FI_DEV_FB_FREE")
NOISY = re.compile(r"DCGM_FI_DEV_(GPU_UTIL|MEM_COPY_UTIL|ENC_UTIL|DEC_UTIL|FB_(USED|FREE|USED_PERCENT)|POWER_USAGE)")
TEMPERATURE = re.compile(r"DCGM_FI_DEV_(GPU|MEMORY|MEM)_TEMP(_CURRENT)?")
UNITS: tuple[tuple[re.Pattern[str], str, float | None], ...] = (
    (re.compile(r"DCGM_FI_DEV_FB_\w+"), "_bytes", 1048576.0),  # MiB
    (re.compile(r"DCGM_FI_DEV_\w*UTIL"), "_bytes", None),  # percent
    (re.compile(r"DCGM_FI_DEV_\w*CLOCKS?"), "_hertz", 1e6),  # MHz
    (re.compile(r"DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION"), "_joules", 1e-3),  # mJ
    (VIOLATIONS, "_seconds", 1e-9),  # ns since dcgm-exporter#589, µs in older texts
)
NANOSECONDS = 1e9
RATES = frozenset({"rate", "irate"})
GROWTHS = frozenset({"increase", "delta"})
HELD = frozenset({"max_over_time", "last_over_time"})
SAMPLES = frozenset({"count_over_time", "present_over_time"})
FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "==": "==", "!=": "!="}


def comparisons(tree: Node) -> Iterator[tuple[Node, Node, str, float]]:
    """Every comparison with a number: the comparison, the vector's side, the operator as seen from it, the number."""
    for node in nodes(tree):
        if not isinstance(node, pp.BinaryExpr) or str(node.op) not in COMPARISONS:
            continue
        op, left, right = str(node.op), number(node.lhs), number(node.rhs)
        if right is not None and left is None:
            yield node, bare(node.lhs), op, right
        elif left is not None and right is None:
            yield node, bare(node.rhs), FLIPPED[op], left


def plain(node: Node) -> Node | None:
    """The selector a vector is, through parentheses and aggregations but no function; None for anything else."""
    node = bare(node)
    while isinstance(node, pp.AggregateExpr) and str(node.op) in {"sum", "max", "min", "avg"}:
        node = bare(node.expr)
    return node if isinstance(node, pp.VectorSelector) else None


def named(selector: Node, pattern: re.Pattern[str]) -> str:
    """The first of a selector's metrics that the pattern fits, or ""."""
    return next((name for name in metric_names(selector) if pattern.fullmatch(name)), "")


def sticky(it: Subject) -> Iterator[Finding]:
    """An alert does not compare a value that never goes back: it would fire until somebody restarts something."""
    if not it.rule.alert:
        return
    for node, side, op, limit in comparisons(it.rule.tree):
        counted = _of_range(side, SAMPLES)
        if counted is not None and op in {">", ">=", "!="} and named(counted, LIFETIME):
            problem = f"{text(node)} counts samples, not errors: it is true as long as the series exists"
            yield found(it.rule, "sticky", problem, "growth over a window")
        selector = _of_range(side, HELD) or plain(side)
        if selector is None or op not in {">", ">=", "==", "!="} or (op == "==" and limit == 0):
            continue
        name = named(selector, LIFETIME)
        if name and not it.flow.recorded(name):
            problem = f"{text(node)}: {name} keeps its value, so the alert never resolves"
            yield found(it.rule, "sticky", problem, "a latch with an acknowledgement, or growth over a window")


def _of_range(side: Node, functions: frozenset[str]) -> Node | None:
    """The selector whose range one of these functions looks at, as in `max_over_time(x[1h])`; else None."""
    call = _call(side, functions)
    return call.args[0].vector_selector if call is not None and isinstance(call.args[0], pp.MatrixSelector) else None


def dead(it: Subject) -> Iterator[Finding]:
    """A selector matches labels that exist, and a change is not looked for in a series that is replaced by it."""
    for node in nodes(it.rule.tree):
        if isinstance(node, pp.Call) and str(node.func.name) in {"changes", "increase", "delta", "resets", "rate"}:
            for selector in selectors(node):
                if named(selector, HEALTH_WATCH):
                    problem = f"{node.func.name}() on a series whose label health_error_code changes with its value"
                    yield found(it.rule, "dead", problem, "aggregate the label away in a recording rule first")
    for selector in selectors(it.rule.tree):
        for name in metric_names(selector):
            if name.startswith("DCGM_") and not it.flow.recorded(name):
                yield from _labels(it, selector, name)


def exported(it: Subject) -> Iterator[Finding]:
    """A rule reads only fields that dcgm-exporter exports by default or that our counters CSV lists."""
    for selector in selectors(it.rule.tree):
        for name in metric_names(selector):
            if re.fullmatch(r"DCGM_F[IE]_\w+", name) and not it.flow.recorded(name) and name not in it.exported:
                problem = f"{name} is not among dcgm-exporter's default counters: no series, unless your CSV lists it"
                yield found(it.rule, "dead", problem, "add it to the counters CSV")


def renamed(it: Subject) -> Iterator[Finding]:
    """A field that has two names is read under both: which one its series has, the site's counters CSV says."""
    used = {name for selector in selectors(it.rule.tree) for name in metric_names(selector)}
    for old, new in RENAMED.items():
        if len(used & {old, new}) == 1 and not it.flow.recorded(old):
            (one,) = used & {old, new}
            other = new if one == old else old
            problem = f"{one} is also called {other}: where the counters CSV says that, the rule reads nothing"
            yield found(it.rule, "alias", problem, f'{{__name__=~"{old}|{new}"}}')


def window(it: Subject) -> Iterator[Finding]:
    """`for` is shorter than the window an event stays visible in, and growth is not compared with whole numbers."""
    for node, side, op, limit in comparisons(it.rule.tree):
        call = _call(side, GROWTHS | {"changes"})
        span = None if call is None else _window(call)
        if call is None or span is None:
            continue
        single = op == ">" and limit < 1
        if it.rule.alert and single and it.rule.wait >= span:
            seconds = f"{span.total_seconds():g}s"
            problem = f"{text(node)} sees an event for {seconds} and `for` waits as long: a single event never fires it"
            yield found(it.rule, "dead", problem)
        if str(call.func.name) == "increase" and op in {">=", "=="} and limit >= 1:
            problem = f"{text(node)}: increase() extrapolates, so {limit:g} events are rarely exactly {limit:g}"
            yield found(it.rule, "unit", problem, f"> {limit - 0.5:g}")


def _labels(it: Subject, selector: Node, name: str) -> Iterator[Finding]:
    for label, sign, value in matchers(selector):
        wrong_place = label == "xid" and name.startswith("DCGM_FI_DEV_XID")
        wrong_place |= label in {"err_code", "err_msg"} and not XID_ONLY.fullmatch(name)
        needs = (sign == "=" and value != "") or sign == "=~" or (sign == "!=" and value == "")
        if needs and (wrong_place or not DCGM_LABELS.fullmatch(label)):
            problem = f"{name} has no label {label!r}, so {label}{sign}{value!r} never matches"
            yield found(it.rule, "dead", problem, "the code is in err_code" if XID_ONLY.fullmatch(name) else "")


def units(it: Subject) -> Iterator[Finding]:
    """Numbers fit the unit of what they are compared with, and names say the unit that is recorded."""
    tree = it.rule.tree
    yield from _violations(it)
    for node in nodes(tree):
        if isinstance(node, pp.Call) and str(node.func.name) in RATES | GROWTHS:
            for selector in selectors(node):
                name = named(selector, PROFILING_GAUGES) or named(selector, GAUGES)
                if name:
                    problem = (
                        f"{node.func.name}() of {name}, which is a gauge (PROF_*_BYTES are bytes per second already)"
                    )
                    yield found(it.rule, "unit", problem, "avg_over_time for a mean")
    for node, side, op, limit in comparisons(tree):
        call = _call(side, RATES)
        if call is not None and op in {">", ">="} and limit >= 1 and _error_counter(call):
            problem = f"{text(node)}: rate() is per second, so {limit:g} means {limit * 3600:g} per hour"
            yield found(it.rule, "unit", problem, "increase(…[1h])")
    if not it.rule.alert:
        yield from _recorded_unit(it)


def _call(node: Node, names: frozenset[str]) -> Node | None:
    """The function call a vector is, through aggregations; None for anything else."""
    node = bare(node)
    while isinstance(node, pp.AggregateExpr):
        node = bare(node.expr)
    return node if isinstance(node, pp.Call) and str(node.func.name) in names else None


def _error_counter(node: Node) -> bool:
    return any(named(selector, LIFETIME) and not named(selector, VIOLATIONS) for selector in selectors(node))


def _violations(it: Subject) -> Iterator[Finding]:
    """Throttle counters are nanoseconds: a share of time is rate / 1e9 or increase / (window * 1e9)."""
    for node in nodes(it.rule.tree):
        if isinstance(node, pp.BinaryExpr) and str(node.op) == "/":
            call, divisor = _call(node.lhs, RATES | GROWTHS), number(node.rhs)
            window = None if call is None else _window(call)
            if call is None or divisor is None or window is None or not _throttles(call):
                continue
            seconds = 1.0 if str(call.func.name) in RATES else window.total_seconds()
            right = seconds * NANOSECONDS
            if not _near(divisor, right):
                problem = f"{text(node)}: the counter is in nanoseconds, so a share of time divides by {right:g}"
                yield found(it.rule, "unit", problem)
    for node, side, _, limit in comparisons(it.rule.tree):
        call = _call(side, RATES | GROWTHS)
        if call is not None and _throttles(call) and 0 < abs(limit) < NANOSECONDS / 1000:
            problem = f"{text(node)}: {limit:g} nanoseconds are nothing"
            yield found(it.rule, "unit", problem, "divide by 1e9 first")


def _throttles(node: Node) -> bool:
    return any(named(selector, VIOLATIONS) for selector in selectors(node))


def _window(call: Node) -> timedelta | None:
    spans: list[timedelta] = [node.range for node in nodes(call) if isinstance(node, pp.MatrixSelector)]
    return spans[0] if spans else None


def _recorded_unit(it: Subject) -> Iterator[Finding]:
    literals = [float(node.val) for node in nodes(it.rule.tree) if isinstance(node, pp.NumberLiteral)]
    numbers = {*literals, prod(literals)}  # 1024 * 1024 is a factor too
    for selector in selectors(it.rule.tree):
        for pattern, suffix, factor in UNITS:
            name = named(selector, pattern)
            if not name or suffix not in it.rule.name:
                continue
            if factor is None:
                yield found(it.rule, "unit", f"{name} is a percentage, recorded as {it.rule.name}")
            elif not any(_near(value, factor) or _near(value, 1 / factor) for value in numbers):
                problem = f"{name} recorded as {it.rule.name} without the factor {factor:g}"
                yield found(it.rule, "unit", problem)


def _near(value: float, wanted: float) -> bool:
    return abs(value - wanted) <= abs(wanted) * 0.01


def noise(it: Subject) -> Iterator[Finding]:
    """An alert does not fire on what a busy GPU does all day; that one is idle may well be worth a message."""
    if not it.rule.alert:
        return
    for node, side, op, limit in (one for alone in _alone(it.rule.tree) for one in comparisons(alone)):
        selector = plain(side)
        if selector is not None:
            name = named(selector, THROTTLE)
            if name and (op == "!=" or _smallest(op, limit) <= HARMLESS_MASK):
                problem = f"{text(node)}: idle and power cap are bits too"
                yield found(it.rule, "noise", problem, "floor(x / 2^k) % 2 == 1 for bits 3, 5, 6 and 7")
            name = named(selector, NOISY)
            if name and _busy(name, op, limit):
                yield found(it.rule, "noise", f"{text(node)}: {name} at {limit:g} is normal load, not a fault")
            if named(selector, TEMPERATURE) and op in {">", ">="}:
                problem = f"{text(node)}: an absolute temperature fits one model only"
                yield found(it.rule, "noise", problem, "compare with the device's own slowdown limit")
        names = _memory_shares(side)
        if names and _busy(names[0], op, limit):
            yield found(it.rule, "noise", f"{text(node)}: full memory is normal for training")
    for bit, name in _bits(it.rule.tree):
        if bit in HARMLESS_BITS:
            yield found(it.rule, "noise", f"bit {bit:#x} of {name} is set in normal operation")


def _alone(tree: Node) -> Iterator[Node]:
    """The parts of an expression that fire by themselves: a part beside `and` or `unless` waits for another fact.

    A plain selector beside `and` chooses devices and is no such fact.
    """
    tree = bare(tree)
    if isinstance(tree, pp.AggregateExpr):
        yield from _alone(tree.expr) if _has_set_operator(tree) else (tree,)
    elif not isinstance(tree, pp.BinaryExpr) or str(tree.op) not in SET_OPERATORS:
        yield tree
    elif str(tree.op) == "or":
        yield from _alone(tree.lhs)
        yield from _alone(tree.rhs)
    elif str(tree.op) == "and" and not any(comparisons(tree.rhs)):
        yield from _alone(tree.lhs)


def _has_set_operator(tree: Node) -> bool:
    return any(isinstance(node, pp.BinaryExpr) and str(node.op) in SET_OPERATORS for node in nodes(tree))


def _smallest(op: str, limit: float) -> float:
    """The smallest whole number above a limit; none for comparisons that look for something else."""
    return {">": floor(limit) + 1, ">=": ceil(limit)}.get(op, inf)


def _busy(name: str, op: str, limit: float) -> bool:
    """Whether a comparison looks for a busy GPU: much use, or little that is free."""
    little = (op == "==") == (limit == 0) if op in {"==", "!="} else op in {"<", "<="}
    return little == bool(FREE.fullmatch(name))


def _bits(tree: Node) -> Iterator[tuple[int, str]]:
    """Bits tested by `x % 2^(k+1) >= 2^k` or `floor(x / 2^k) % 2 == 1`, with the metric's name."""
    for _, side, op, limit in comparisons(tree):
        if not isinstance(side, pp.BinaryExpr) or str(side.op) != "%":
            continue
        modulus = number(side.rhs)
        name = next((named(s, THROTTLE) for s in selectors(side.lhs) if named(s, THROTTLE)), "")
        if not name or modulus is None:
            continue
        if op == ">=" and modulus == 2 * limit:
            yield int(limit), name
        elif modulus == 2 and op in {"==", ">=", ">"}:
            divided = [number(n.rhs) for n in nodes(side.lhs) if isinstance(n, pp.BinaryExpr) and str(n.op) == "/"]
            yield (int(divided[0]) if divided and divided[0] else 1), name


def _memory_shares(side: Node) -> list[str]:
    """The fields of a share of the GPU's memory, the one that is divided first; [] for anything else."""
    if not isinstance(side, pp.BinaryExpr) or str(side.op) not in {"/", "*"}:
        return []
    names = [name for selector in selectors(side) for name in metric_names(selector)]
    return names if all(re.fullmatch(r"DCGM_FI_DEV_FB_\w+", name) for name in names) else []


CHECKS: tuple[Check, ...] = (sticky, dead, exported, renamed, window, units, noise)
