"""Checks on rules for several clusters: the label that tells them apart is never lost, and nothing meets without it.

They are asked only where the label is named (`--cluster-label`). A match that leaves the label out takes the node of
one cluster for the node of another that has the same name.
"""

from __future__ import annotations

from collections.abc import Iterator

import promql_parser as pp

from gpuheal_rules.lint.flow import Flow, children, matching, on_labels
from gpuheal_rules.lint.promql import Subject, found, text
from gpuheal_rules.lint.source import Finding, Node

CHECK = "cluster"


def clusters(it: Subject) -> Iterator[Finding]:
    """Every aggregation and every match keeps the label, and scalars are of no cluster."""
    if it.cluster_label and it.rule.tree is not None:
        for problem in _problems(it.rule.tree, it.flow, it.cluster_label):
            yield found(it.rule, CHECK, problem)


def _problems(node: Node, flow: Flow, label: str) -> Iterator[str]:
    if isinstance(node, pp.Call) and str(node.func.name) == "scalar":
        shape = flow.shape(node.args[0])
        if shape.may_have(label) and not shape.nothing:
            yield f"{text(node)} is no number as soon as there are two clusters"
        return
    if isinstance(node, pp.AggregateExpr) and not _grouped(node, label):
        yield f"{text(node)} puts all clusters together"
    elif isinstance(node, pp.Call):
        yield from _call(node, label)
    elif isinstance(node, pp.BinaryExpr):
        yield from _match(node, flow, label)
    for child in children(node):
        yield from _problems(child, flow, label)


def _grouped(node: Node, label: str) -> bool:
    if node.modifier is None:
        return False
    labels = {str(name) for name in node.modifier.labels}
    return (label in labels) == str(node.modifier.type).endswith("By")


def _call(node: Node, label: str) -> Iterator[str]:
    name = str(node.func.name)
    if name in {"absent", "absent_over_time"}:
        yield f"{text(node)} is true only when it is missing in every cluster"
    elif name in {"label_replace", "label_join"} and str(node.args[1].val) == label:
        yield f"{text(node)} writes the label {label}"


def _match(node: Node, flow: Flow, label: str) -> Iterator[str]:
    left, right = flow.shape(node.lhs), flow.shape(node.rhs)
    if left.scalar or right.scalar or left.nothing or right.nothing:
        return
    if matching(node) and (label in on_labels(node)) != (matching(node) == "on"):
        yield f"`{node.op} {matching(node)} ({', '.join(sorted(on_labels(node)))})` matches across clusters"
    for side, shape in (("left", left), ("right", right)):
        if not shape.may_have(label):
            yield f"the {side} side of `{node.op}` in {text(node)} is of no cluster"
