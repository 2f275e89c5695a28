"""Checks on joins: two sides that find each other by their labels, at most one for one."""

from __future__ import annotations

import re
from collections.abc import Iterator

import promql_parser as pp

from gpuheal_rules.lint.flow import (
    SET_OPERATORS,
    bare,
    cardinality,
    matching,
    metric_names,
    nodes,
    number,
    on_labels,
    selectors,
)
from gpuheal_rules.lint.promql import Check, Subject, constant, found, holds, text
from gpuheal_rules.lint.source import Finding, Node

# Metrics whose labels are known to be equal, so that they may be joined by all of them: one latch of our exporter, GPU
# fields of dcgm-exporter without those that carry an error code or belong to links, one subsystem of another exporter.
FAMILIES = (
    re.compile(r"(gpuheal_\w+?)_(total|latched|first_timestamp_seconds|last_timestamp_seconds)"),
    re.compile(r"(DCGM_F)I_(?!DEV_XID|DEV_NVLINK|DEV_NVSWITCH)\w+"),
    re.compile(r"((?!DCGM_|gpuheal)[a-zA-Z0-9]+_[a-zA-Z0-9]+)\w*"),
)


def joins(it: Subject) -> Iterator[Finding]:
    """Joins name the labels they match on, and no side can have two series for one match."""
    unseen = _compared_away(it.rule.tree)
    for node in nodes(it.rule.tree):
        if not isinstance(node, pp.BinaryExpr):
            continue
        left, right = it.flow.shape(node.lhs), it.flow.shape(node.rhs)
        if left.scalar or right.scalar or left.nothing or right.nothing:
            continue
        op = str(node.op)
        if not matching(node):
            yield from _implicit(it, node)
        stray = op == "or" and {left.names, right.names} > {frozenset()} and left.closed and right.closed
        if stray and str(node) not in unseen:
            empty = "right" if left.names else "left"
            problem = f"the {empty} side of `or` has no labels: it appears as a stray series beside the others"
            yield found(it.rule, "join", problem, "or on () is for single values only")
        if op in SET_OPERATORS or not matching(node):
            continue
        many, on = cardinality(node), on_labels(node)
        for side, shape in (("left", left), ("right", right)):
            if side == many:
                continue
            if matching(node) == "on" and (shape.unique is None or not shape.unique <= on):
                problem = f"the {side} side of `{op} on ({', '.join(sorted(on))})` can have several series per match"
                hint = "aggregate it by these labels, else one duplicate stops the whole rule"
                yield found(it.rule, "join", problem, hint)


def _compared_away(tree: Node) -> set[str]:
    """The `x or vector(0)` of which a comparison leaves only x, as `(x or vector(0)) > 0`."""
    unseen = set()
    for node in nodes(tree):
        inner, limit = (bare(node.lhs), number(node.rhs)) if isinstance(node, pp.BinaryExpr) else (None, None)
        if isinstance(inner, pp.BinaryExpr) and str(inner.op) == "or" and limit is not None:
            value = constant(inner.rhs)
            if value is not None and not holds(value, str(node.op), limit):
                unseen.add(str(inner))
    return unseen


def _implicit(it: Subject, node: Node) -> Iterator[Finding]:
    """A join without on() or ignoring(): right only when both sides have the same labels."""
    left, right = it.flow.shape(node.lhs), it.flow.shape(node.rhs)
    if str(node.op) == "or":
        return
    if left.closed and right.closed:
        if left.names != right.names:
            only = ", ".join(sorted(left.names ^ right.names))
            yield found(it.rule, "join", f"`{node.op}` matches all labels, but only one side has {only}", "say on (…)")
        return
    mine = {name for selector in selectors(node.lhs) for name in metric_names(selector)}
    other = {name for selector in selectors(node.rhs) for name in metric_names(selector)}
    families = {_family(name) for name in mine | other}
    alike = len(families) == 1 and "" not in families
    if left.closed != right.closed or (mine != other and not alike):
        problem = f"`{node.op}` of {text(node.lhs, 40)} and {text(node.rhs, 40)} matches labels that differ"
        yield found(it.rule, "join", problem, "say on (node, gpu_uuid)")


def _family(name: str) -> str:
    """What the metric's labels are known by; "" when nothing is known."""
    return next((found[1] for pattern in FAMILIES if (found := pattern.fullmatch(name))), "")


CHECKS: tuple[Check, ...] = (joins,)
