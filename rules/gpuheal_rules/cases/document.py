"""Cases as promtool test files. Cases share a test, each on nodes of its own: rules are evaluated once for all."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from gpuheal_rules.cases.world import (
    LONG_STEPS,
    NODE,
    OTHER_NODE,
    STEP_SECONDS,
    TOPOLOGY,
    Case,
    Expectation,
    Query,
    Series,
    Timeline,
    Value,
    merged,
)


def values(at: Timeline, steps: int) -> str:
    """Return promtool's notation of a timeline: runs of equal values and of equal steps in its short forms."""
    shown = [at(step) for step in range(steps + 1)]
    found: list[str] = []
    index = 0
    while index < len(shown):
        first = shown[index]
        count = _run(shown, index)
        if first is None:
            found.append(f"_x{count}")
        elif isinstance(first, str):
            found += [first] * count
        elif count == 1:
            found.append(f"{first:.12g}")
        else:
            step = _difference(shown, index)
            found.append(f"{first:.12g}{f'{step:+.12g}' if step else ''}x{count - 1}")
        index += count
    return " ".join(found)


def _difference(shown: Sequence[Value], index: int) -> float:
    """Return how much the series changes at `index` if it changes by the same at the next step too, else 0."""
    three = shown[index : index + 3]
    numbers = [value for value in three if isinstance(value, float | int)]
    if len(numbers) < 3 or numbers[1] - numbers[0] != numbers[2] - numbers[1]:
        return 0.0
    return float(numbers[1] - numbers[0])


def _run(shown: Sequence[Value], index: int) -> int:
    """Return how many values from `index` on are equal, or differ by the same step."""
    first, step = shown[index], _difference(shown, index)
    count = 1
    while index + count < len(shown):
        value = shown[index + count]
        wanted = first + step * count if isinstance(first, float | int) else first
        if value != wanted or isinstance(value, str):
            break
        count += 1
    return count


def expand(template: str, labels: Mapping[str, str], value: float) -> str:
    """Return an annotation as Prometheus expands it; knows `$labels.x` and `$value`, raises ValueError for the rest."""

    def one(match: re.Match[str]) -> str:
        word = match.group(1).strip()
        if word == "$value":
            return f"{value:.12g}"
        if word.startswith("$labels."):
            return labels.get(word.removeprefix("$labels."), "")
        raise ValueError(f"annotation template {word!r} is not supported")

    return re.sub(r"\{\{([^}]*)\}\}", one, template)


def document(cases: Sequence[Case], rule_file: str, annotations: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """Return a promtool test file; `annotations` are the templates of each alert, by name."""
    alone = [case for case in cases if case.alone]
    shared = [_moved(case, index) for index, case in enumerate(case for case in cases if not case.alone)]
    groups = [[c for c in shared if c.steps <= LONG_STEPS], [c for c in shared if c.steps > LONG_STEPS]]
    tests = [_together(group) for group in groups if group] + [_test(case, annotations) for case in alone]
    return {"rule_files": [rule_file], "evaluation_interval": f"{STEP_SECONDS}s", "tests": tests}


def _moved(case: Case, index: int) -> Case:
    """Return the case on nodes of its own, in a rack of its own, so that cases can run at once without meeting."""
    names = {name: f"{name}-{index}" for name in (NODE, OTHER_NODE)}
    names |= {TOPOLOGY[key]: f"{TOPOLOGY[key]}-{index}" for key in ("rack", "fabric_domain")}

    def labels(found: Mapping[str, str]) -> dict[str, str]:
        moved = {"node", "target_node", "rack", "fabric_domain", "Hostname"}
        return {key: names.get(value, value) if key in moved else value for key, value in found.items()}

    def text(found: str) -> str:
        for old, new in names.items():
            found = found.replace(f'"{old}"', f'"{new}"')
        return found

    return Case(
        name=case.name,
        series=[Series(metric=s.metric, labels=labels(s.labels), at=s.at) for s in case.series],
        alerts=[
            Expectation(
                step=e.step,
                alertname=e.alertname,
                fires=[(labels(found), value) for found, value in e.fires],
                counted=e.counted,
            )
            for e in case.alerts
        ],
        queries=[
            Query(step=q.step, expr=text(q.expr), samples=[(text(found), value) for found, value in q.samples])
            for q in case.queries
        ],
        steps=case.steps,
    )


def _together(cases: Sequence[Case]) -> dict[str, Any]:
    """Return one test of many cases, each on its own node; what fires is asked for node by node."""
    steps = max(case.steps for case in cases)
    series = merged([], [s for case in cases for s in case.series])
    queries: list[dict[str, Any]] = []
    for case in cases:
        node = _node(case)
        for expected in case.alerts:
            queries += [_expr_test(query) for query in _asked(expected, node)]
        queries += [_expr_test(query) for query in case.queries]
    return {
        "name": "; ".join(case.name for case in cases),
        "interval": f"{STEP_SECONDS}s",
        "input_series": [{"series": f"{s.metric}{_braces(s.labels)}", "values": values(s.at, steps)} for s in series],
        "promql_expr_test": queries,
    }


def _asked(expected: Expectation, node: str) -> list[Query]:
    of = f'alertname="{expected.alertname}", alertstate="firing", node="{node}"'
    firing = [
        (f"ALERTS{_braces({**labels, 'alertname': expected.alertname, 'alertstate': 'firing'})}", 1.0)
        for labels, _value in expected.fires
    ]
    found = [Query(step=expected.step, expr=f"ALERTS{{{of}}}", samples=firing)]
    for labels, value in expected.fires:
        if expected.counted:
            gpu = labels.get("gpu_uuid", "")
            count = f'max(gpuheal:fault_active:count{{fault="{labels["fault"]}", node="{node}", gpu_uuid="{gpu}"}})'
            found.append(Query(step=expected.step, expr=count, samples=[("{}", value)]))
    return found


def _expr_test(query: Query) -> dict[str, Any]:
    return {
        "expr": query.expr,
        "eval_time": f"{query.step * STEP_SECONDS}s",
        "exp_samples": [{"labels": labels, "value": value} for labels, value in query.samples],
    }


def _test(case: Case, annotations: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "name": case.name,
        "interval": f"{STEP_SECONDS}s",
        "input_series": [
            {"series": f"{s.metric}{_braces(s.labels)}", "values": values(s.at, case.steps)} for s in case.series
        ],
    }
    # What a text takes from a query at the moment of the evaluation is no function of the labels: there the alert is
    # asked for, and texts are tested with a few sites (tests/rules/sites).
    plain = [e for e in case.alerts if "query" not in annotations[e.alertname]["description"]]
    asked = [query for e in case.alerts if e not in plain for query in _asked(e, _node(case))]
    if plain:
        found["alert_rule_test"] = [_alert_test(e, annotations) for e in plain]
    if asked or case.queries:
        found["promql_expr_test"] = [_expr_test(query) for query in (*asked, *case.queries)]
    return found


def _node(case: Case) -> str:
    """Return the node that a case is about."""
    return next((s.labels["node"] for s in case.series if s.labels.get("node", "").startswith(NODE)), NODE)


def _alert_test(expected: Expectation, annotations: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    templates = annotations[expected.alertname]
    return {
        "eval_time": f"{expected.step * STEP_SECONDS}s",
        "alertname": expected.alertname,
        "exp_alerts": [
            {
                "exp_labels": dict(labels),
                "exp_annotations": {key: expand(text, labels, value) for key, text in templates.items()},
            }
            for labels, value in expected.fires
        ],
    }


def _braces(labels: Mapping[str, str]) -> str:
    return "{" + ", ".join(f'{key}="{value}"' for key, value in labels.items()) + "}"
