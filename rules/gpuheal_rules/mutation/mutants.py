"""Small wrong changes of the rules: an operand of and, or, unless deleted, or a comparison turned round."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import promql_parser

from gpuheal_rules.promql.rule import AlertRule, Group, Record

FLIPPED = {">": "<=", "<": ">=", ">=": "<", "<=": ">", "==": "!=", "!=": "=="}
SET_OPERATORS = ("and", "or", "unless")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """One change: which rule, what was done, and the expression it leads to. `key` is stable and short."""

    group: int
    rule: int
    change: int
    what: str
    name: str
    labels: str
    expr: str

    @property
    def key(self) -> str:
        """Return what an exception list names: rule, labels and number of the change in the expression."""
        return f"{self.name}{{{self.labels}}}#{self.change}"


def mutants(groups: Sequence[Group]) -> Iterator[Mutant]:
    """Yield every mutant of every rule, in order; each differs from its rule as parsed."""
    for group_index, group in enumerate(groups):
        for rule_index, rule in enumerate(group.rules):
            labels = ",".join(f"{k}={v}" for k, v in sorted(rule.labels.items())) if isinstance(rule, Record) else ""
            for change, (what, expr) in enumerate(changes(rule.expr)):
                yield Mutant(
                    group=group_index,
                    rule=rule_index,
                    change=change,
                    what=what,
                    name=rule.name,
                    labels=labels,
                    expr=expr,
                )


def changes(expr: str) -> Iterator[tuple[str, str]]:
    """Yield what was changed and the changed expression, one change at a time, outer operators first."""
    tree = promql_parser.parse(expr)
    operators: list[str] = []
    promql_parser.walk(tree, lambda node: operators.append(_operator(node)) if _operator(node) else None)
    for index, operator in enumerate(operators):
        ways = ("left", "right") if operator in SET_OPERATORS else ("flip",)
        for way in ways:
            changed = _changed(tree, index, way).prettify()
            done = (
                f"turned {operator} into {FLIPPED.get(operator)}"
                if way == "flip"
                else f"kept only the {way} of {operator}"
            )
            yield done, changed


def mutated(groups: Sequence[Group], mutant: Mutant) -> tuple[Group, ...]:
    """Return the groups with the mutant's expression in place."""
    found = list(groups)
    group = found[mutant.group]
    rules: list[Record | AlertRule] = list(group.rules)
    rules[mutant.rule] = replace(rules[mutant.rule], expr=mutant.expr)
    found[mutant.group] = replace(group, rules=tuple(rules))
    return tuple(found)


def _operator(node: Any) -> str:
    if not isinstance(node, promql_parser.BinaryExpr):
        return ""
    operator = str(node.op)
    return operator if operator in FLIPPED or operator in SET_OPERATORS else ""


def _changed(tree: Any, index: int, way: str) -> Any:
    seen = -1

    def visit(node: Any) -> Any:
        nonlocal seen
        if not _operator(node):
            return None
        seen += 1
        if seen != index:
            return None
        if way == "flip":
            return _flip(node)
        return node.lhs if way == "left" else node.rhs

    return promql_parser.transform(tree, pre_visit=visit)


def _flip(node: Any) -> Any:
    modifier = str(node.modifier) if node.modifier is not None else ""
    if node.modifier is not None and node.modifier.return_bool:
        modifier = f"bool {modifier}"
    operator = FLIPPED[str(node.op)]
    return promql_parser.parse(f"(({node.lhs.prettify()}) {operator} {modifier} ({node.rhs.prettify()}))")
