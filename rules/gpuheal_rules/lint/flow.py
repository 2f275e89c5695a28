"""Which labels the series of an expression can have, followed through aggregations, joins and recording rules.

A `Shape` is what is known without data: the labels there can be, those there surely are, and by which labels the series
are unique. Raw metrics are open: they can have any label, and nothing makes them unique.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import promql_parser as pp

from gpuheal_rules.lint.source import Node, Rule

SET_OPERATORS = frozenset({"and", "or", "unless"})
KEEPING_AGGREGATIONS = frozenset({"topk", "bottomk", "limitk", "limit_ratio"})
NO_LABELS = frozenset({"vector", "scalar", "time", "pi"})
ROUNDS = 6
"""Rules that read themselves, or each other in a circle, are looked at together this often at most: what one of them
adds reaches the others in the next round."""

DEPTH = 40
"""Recording rules refer to each other this deep at most; deeper, or in a circle, a shape counts as open."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Labels of a vector. `names` are all possible ones when closed, else those known of; `gone` were taken off."""

    closed: bool
    names: frozenset[str]
    certain: frozenset[str] = frozenset()
    gone: frozenset[str] = frozenset()
    unique: frozenset[str] | None = None
    """At most one series per combination of these labels; None = not known."""
    scalar: bool = False
    nothing: bool = False
    """No series at all: what a rule that reads itself sees of itself at first."""

    def may_have(self, label: str) -> bool:
        """Whether a series can carry the label."""
        return label in self.names or (not self.closed and label not in self.gone)

    def only(self, labels: frozenset[str]) -> Shape:
        """Aggregated by these labels."""
        names = labels if not self.closed else labels & self.names
        kept = frozenset(label for label in names if self.may_have(label))
        return Shape(closed=True, names=kept, certain=self.certain & labels, unique=kept)

    def without(self, labels: frozenset[str]) -> Shape:
        """The same with these labels taken off."""
        left = self.names - labels
        return Shape(closed=self.closed, names=left, certain=self.certain - labels, gone=self.gone | labels)

    def plus(self, labels: frozenset[str]) -> Shape:
        """The same with these labels added; uniqueness stays."""
        return Shape(
            closed=self.closed,
            names=self.names | labels,
            certain=self.certain | labels,
            gone=self.gone - labels,
            unique=self.unique,
        )


OPEN = Shape(closed=False, names=frozenset())
EMPTY = Shape(closed=True, names=frozenset(), unique=frozenset())
NOTHING = Shape(closed=True, names=frozenset(), unique=frozenset(), nothing=True)
SCALAR = Shape(closed=True, names=frozenset(), unique=frozenset(), scalar=True)


def children(node: Node) -> list[Node]:
    """The nodes directly below a node, in order."""
    match node:
        case pp.BinaryExpr():
            return [node.lhs, node.rhs]
        case pp.AggregateExpr():
            return [node.expr] if node.param is None else [node.param, node.expr]
        case pp.Call():
            return list(node.args)
        case pp.ParenExpr() | pp.UnaryExpr() | pp.SubqueryExpr():
            return [node.expr]
        case pp.MatrixSelector():
            return [node.vector_selector]
        case _:
            return []


def nodes(node: Node) -> Iterator[Node]:
    """The node and every node below it."""
    yield node
    for child in children(node):
        yield from nodes(child)


def bare(node: Node) -> Node:
    """The node without parentheses around it."""
    while isinstance(node, pp.ParenExpr):
        node = node.expr
    return node


def selectors(node: Node) -> Iterator[Node]:
    """Every vector selector below a node."""
    return (found for found in nodes(node) if isinstance(found, pp.VectorSelector))


def metric_names(selector: Node) -> list[str]:
    """The metrics a selector names: one, the alternatives of a `__name__` pattern, or none."""
    if selector.name:
        return [str(selector.name)]
    for matcher in selector.matchers.matchers:
        if matcher.name == "__name__":
            return str(matcher.value).split("|")
    return []


def matchers(selector: Node) -> list[tuple[str, str, str]]:
    """Its matchers as (label, operator, value), without the name's."""
    signs = {"MatchOp.Equal": "=", "MatchOp.NotEqual": "!=", "MatchOp.Re": "=~", "MatchOp.NotRe": "!~"}
    found = [(str(m.name), signs[str(m.op)], str(m.value)) for m in selector.matchers.matchers]
    return [item for item in found if item[0] != "__name__"]


def number(node: Node) -> float | None:
    """The value of a number, a negated number or arithmetic of numbers; None for anything else."""
    node = bare(node)
    if isinstance(node, pp.NumberLiteral):
        return float(node.val)
    if isinstance(node, pp.UnaryExpr):
        inner = number(node.expr)
        return None if inner is None else -inner
    if isinstance(node, pp.BinaryExpr):
        left, right = number(node.lhs), number(node.rhs)
        if left is None or right is None:
            return None
        table: dict[str, Any] = {"*": lambda: left * right, "+": lambda: left + right, "-": lambda: left - right}
        table |= {"/": lambda: left / right if right else None, "^": lambda: left**right}
        compute = table.get(str(node.op))
        return None if compute is None else compute()
    return None


class Flow:
    """Shapes of expressions over a set of rules; recording rules are followed by name and static labels."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._records: dict[str, list[Rule]] = {}
        for rule in rules:
            if not rule.alert:
                self._records.setdefault(rule.name, []).append(rule)
        self._known: dict[int, Shape] = {}
        self._settled: set[int] = set()
        self._round: set[int] = set()
        self._depth = 0

    def recorders(self, selector: Node) -> list[Rule]:
        """The recording rules whose series a selector can see; [] for a raw metric."""
        found, wanted = [], matchers(selector)
        for name in metric_names(selector):
            for rule in self._records.get(name, []):
                if all(_fits(rule.labels, *matcher) for matcher in wanted):
                    found.append(rule)
        return found

    def recorded(self, name: str) -> bool:
        """Whether some rule records this name."""
        return name in self._records

    def rule_shape(self, rule: Rule) -> Shape:
        """The shape of what a rule writes, its static labels included."""
        key = id(rule)
        if key in self._settled:
            return self._known[key]
        if rule.tree is None or self._depth > DEPTH:
            return OPEN
        if key in self._round:
            return self._known.get(key, NOTHING)
        if self._depth:
            self._round.add(key)
            return self._once(rule)
        for _ in range(ROUNDS):
            before = dict(self._known)
            self._round = {key}
            self._once(rule)
            if self._known == before:
                break
        self._settled |= self._round
        self._round = set()
        return self._known[key]

    def _once(self, rule: Rule) -> Shape:
        self._depth += 1
        self._known[id(rule)] = shape = self._with(rule, self.shape(rule.tree))
        self._depth -= 1
        return shape

    @staticmethod
    def _with(rule: Rule, shape: Shape) -> Shape:
        if shape.nothing:
            return shape
        return shape.plus(frozenset(label for label, value in rule.labels.items() if value))

    def shape(self, node: Node) -> Shape:
        """The shape of an expression."""
        match node:
            case pp.VectorSelector():
                return self._selector(node)
            case pp.MatrixSelector():
                return self._selector(node.vector_selector)
            case pp.ParenExpr() | pp.UnaryExpr() | pp.SubqueryExpr():
                return self.shape(node.expr)
            case pp.NumberLiteral() | pp.StringLiteral():
                return SCALAR
            case pp.AggregateExpr():
                return self._aggregate(node)
            case pp.Call():
                return self._call(node)
            case pp.BinaryExpr():
                return self._binary(node)
            case _:
                return OPEN

    def _selector(self, node: Node) -> Shape:
        surely = frozenset(label for label, sign, value in matchers(node) if _needs_label(sign, value))
        absent = frozenset(label for label, sign, value in matchers(node) if sign == "=" and not value)
        rules = self.recorders(node)
        if not rules:
            unknown = any(self.recorded(name) for name in metric_names(node))
            base = EMPTY if unknown else OPEN
            return Shape(closed=base.closed, names=surely, certain=surely, gone=absent)
        pairs = [(rule, self.rule_shape(rule)) for rule in rules]
        rules = [rule for rule, shape in pairs if not shape.nothing]
        shapes = [shape for _, shape in pairs if not shape.nothing]
        if not shapes:
            return NOTHING
        unique = _unique(rules, shapes)
        pinned = frozenset(label for label, sign, value in matchers(node) if sign == "=" and value)
        return Shape(
            closed=all(shape.closed for shape in shapes),
            names=reduce(frozenset.union, (shape.names for shape in shapes)) - absent,
            certain=reduce(frozenset.intersection, (shape.certain for shape in shapes)) | surely,
            gone=reduce(frozenset.intersection, (shape.gone for shape in shapes)) | absent,
            unique=None if unique is None else unique - pinned,
        )

    def _aggregate(self, node: Node) -> Shape:
        inner = self.shape(node.expr)
        if inner.nothing:
            return inner
        op = str(node.op)
        labels = frozenset(str(label) for label in node.modifier.labels) if node.modifier is not None else frozenset()
        by = node.modifier is None or str(node.modifier.type).endswith("By")
        if op in KEEPING_AGGREGATIONS:
            first = by and number(node.param) == 1
            return Shape(
                closed=inner.closed,
                names=inner.names,
                certain=inner.certain,
                gone=inner.gone,
                unique=labels if first else inner.unique,
            )
        result = inner.only(labels) if by else _reaggregated(inner.without(labels))
        return result.plus(frozenset({str(node.param.val)})) if op == "count_values" else result

    def _call(self, node: Node) -> Shape:
        name = str(node.func.name)
        if name in NO_LABELS or not node.args:
            return EMPTY if name == "vector" else SCALAR
        vectors = [self.shape(arg) for arg in node.args if not isinstance(arg, pp.NumberLiteral | pp.StringLiteral)]
        inner = vectors[0] if vectors else SCALAR
        if inner.nothing:
            return inner
        if name in {"absent", "absent_over_time"}:
            first = bare(node.args[0])
            first = first.vector_selector if isinstance(first, pp.MatrixSelector) else first
            pairs = matchers(first) if isinstance(first, pp.VectorSelector) else []
            names = frozenset(label for label, sign, value in pairs if sign == "=" and value)
            return Shape(closed=True, names=names, certain=names, unique=frozenset())
        if name in {"label_replace", "label_join"}:
            target = frozenset({str(node.args[1].val)})
            return Shape(
                closed=inner.closed,
                names=inner.names | target,
                certain=inner.certain,
                gone=inner.gone - target,
                unique=inner.unique if inner.unique is None or not target & inner.unique else None,
            )
        return inner

    def _binary(self, node: Node) -> Shape:
        left, right, op = self.shape(node.lhs), self.shape(node.rhs), str(node.op)
        if right.scalar or left.scalar:
            return left if right.scalar else right
        if left.nothing or right.nothing:
            return _beside_nothing(left, right, op)
        if op in {"and", "unless"}:
            extra = right.certain & on_labels(node) if op == "and" and on_labels(node) else frozenset()
            return Shape(
                closed=left.closed,
                names=left.names | (extra if not left.closed else frozenset()),
                certain=left.certain | (extra & left.names),
                gone=left.gone,
                unique=left.unique,
            )
        if op == "or":
            return _either(left, right, on_labels(node) if matching(node) == "on" else None)
        many = cardinality(node)
        if many:
            keeper = left if many == "left" else right
            extra = frozenset(str(label) for label in (node.modifier.group_labels or []))
            return keeper.plus(extra) if extra else keeper
        if matching(node) == "on":
            on = on_labels(node)
            both = left.only(on)
            return Shape(closed=True, names=both.names | right.only(on).names, certain=both.certain, unique=on)
        ignoring = on_labels(node) if matching(node) == "ignoring" else frozenset()
        base = left if left.closed or not right.closed else right
        return base.without(ignoring) if ignoring else base


def _beside_nothing(left: Shape, right: Shape, op: str) -> Shape:
    """The result when one side has no series (yet)."""
    if op == "or":
        return right if left.nothing else left
    return left if op == "unless" else NOTHING


def _reaggregated(shape: Shape) -> Shape:
    """After `without`: the series are unique by all labels that are left, when these are known."""
    unique = shape.names if shape.closed else None
    return Shape(closed=shape.closed, names=shape.names, certain=shape.certain, gone=shape.gone, unique=unique)


def _either(left: Shape, right: Shape, on: frozenset[str] | None) -> Shape:
    """The union of two vectors: unique when both are, by labels that `or` compares."""
    unique = None
    if left.unique is not None and right.unique is not None:
        if on is not None and left.unique <= on and right.unique <= on:
            unique = on
        elif on is not None and left.unique == right.unique and on <= left.unique:
            unique = left.unique
        elif on is None and left.closed and right.closed and left.names == right.names:
            unique = left.unique if left.unique == right.unique else left.names
    return Shape(
        closed=left.closed and right.closed,
        names=left.names | right.names,
        certain=left.certain & right.certain,
        gone=left.gone & right.gone,
        unique=unique,
    )


def matching(node: Node) -> str:
    """on, ignoring or "" of a binary expression."""
    if node.modifier is None or node.modifier.matching is None:
        return ""
    return "on" if str(node.modifier.matching.type).endswith("Include") else "ignoring"


def on_labels(node: Node) -> frozenset[str]:
    """The labels in its on() or ignoring()."""
    if node.modifier is None or node.modifier.matching is None:
        return frozenset()
    return frozenset(str(label) for label in node.modifier.matching.labels)


def cardinality(node: Node) -> str:
    """Which side may have many series: left (group_left), right (group_right) or ""."""
    card = "" if node.modifier is None else str(node.modifier.card)
    return {"ManyToOne": "left", "OneToMany": "right"}.get(card.rpartition(".")[2], "")


def _fits(labels: Mapping[str, str], name: str, sign: str, value: str) -> bool:
    """Whether static labels can satisfy a matcher; a label that is not static can have any value."""
    if name not in labels or sign in {"=~", "!~"}:
        return True
    return (labels[name] == value) == (sign == "=")


def _needs_label(sign: str, value: str) -> bool:
    """Whether a matcher lets only series with the label through."""
    return (sign == "=" and value != "") or (sign == "!=" and value == "") or (sign == "=~" and value in {".+", "(.+)"})


def _unique(rules: Sequence[Rule], shapes: Sequence[Shape]) -> frozenset[str] | None:
    """By what the series of several rules of one name are unique: their own keys and the static labels that differ."""
    keys = [shape.unique for shape in shapes]
    if any(key is None for key in keys):
        return None
    together: frozenset[str] = frozenset().union(*(key for key in keys if key is not None))
    if len(rules) == 1:
        return together
    static = {tuple(sorted(rule.labels.items())) for rule in rules}
    if len(static) < len(rules):
        return None
    return together | frozenset(label for rule in rules for label in rule.labels)
