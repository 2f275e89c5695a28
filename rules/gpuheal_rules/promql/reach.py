"""Which recording rules are read by others, and which of them nobody needs when some alerts are gone."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import promql_parser as pp

from gpuheal_rules.promql.rule import AlertRule, Group, Record

_MATCHES: Mapping[str, Callable[[str, str], bool]] = {
    "MatchOp.Equal": lambda wanted, value: value == wanted,
    "MatchOp.NotEqual": lambda wanted, value: value != wanted,
    "MatchOp.Re": lambda wanted, value: re.fullmatch(wanted, value) is not None,
    "MatchOp.NotRe": lambda wanted, value: re.fullmatch(wanted, value) is None,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Selector:
    """A series that an expression reads: its name, and the matchers as label, operator and value."""

    name: str
    matchers: tuple[tuple[str, str, str], ...]

    def reads(self, rule: Record) -> bool:
        """Return whether the rule may write what is read here; labels that are not static may have any value."""
        return self.name == rule.name and all(
            _MATCHES[operator](wanted, rule.labels[label])
            for label, operator, wanted in self.matchers
            if label in rule.labels
        )

    def finds(self, labels: Mapping[str, str]) -> bool:
        """Return whether a series of this name with these labels is read."""
        return all(_MATCHES[operator](wanted, labels.get(label, "")) for label, operator, wanted in self.matchers)


@cache
def selectors(expr: str) -> tuple[Selector, ...]:
    """Return every series that an expression reads; raise ValueError when it does not parse."""
    return tuple(selector_of(node) for node in _nodes(pp.parse(expr)) if isinstance(node, pp.VectorSelector))


def selector_of(node: Any) -> Selector:
    """Return what a vector selector of a parsed expression reads."""
    return Selector(name=node.name or "", matchers=tuple((m.name, str(m.op), m.value) for m in node.matchers.matchers))


def _nodes(node: Any) -> Iterator[Any]:
    yield node
    parts = [getattr(node, name, None) for name in ("lhs", "rhs", "expr", "param", "vector_selector")]
    for part in [*parts, *(getattr(node, "args", None) or [])]:
        if part is not None and not isinstance(part, int | float | str):
            yield from _nodes(part)


def reached(roots: Iterable[Record | AlertRule], rules: Sequence[Record | AlertRule]) -> set[int]:
    """Return the places in `rules` of the roots and of all that they read, directly or through others."""
    by_name: dict[str, list[int]] = {}
    for index, rule in enumerate(rules):
        if isinstance(rule, Record):
            by_name.setdefault(rule.name, []).append(index)
    wanted = set(map(id, roots))
    found = {index for index, rule in enumerate(rules) if id(rule) in wanted}
    left = list(found)
    while left:
        for selector in selectors(rules[left.pop()].expr):
            for index in by_name.get(selector.name, ()):
                rule = rules[index]
                if index not in found and isinstance(rule, Record) and selector.reads(rule):
                    found.add(index)
                    left.append(index)
    return found


def needed(groups: Sequence[Group], whole: Sequence[Group], read: frozenset[str]) -> tuple[Group, ...]:
    """Return the groups without the recording rules that nobody needs any more.

    Needed is what an alert reads, directly or through others, what somebody outside reads by its name (`read`), and
    what no other rule reads in the `whole` set either: such rules are made for people.
    """
    every = [rule for group in whole for rule in group.rules]
    between = {selector.name for rule in every for selector in selectors(rule.expr) if selector.name != rule.name}
    outside = read | ({rule.name for rule in every} - between)
    rules = [rule for group in groups for rule in group.rules]
    kept = reached([rule for rule in rules if isinstance(rule, AlertRule) or rule.name in outside], rules)
    keep = {id(rules[index]) for index in kept}
    return tuple(replace(group, rules=tuple(rule for rule in group.rules if id(rule) in keep)) for group in groups)
