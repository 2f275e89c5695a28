"""Several clusters under one ruler: every aggregation and every match keeps the label that tells clusters apart.

Nodes of two clusters may have equal names. The rules are written for one cluster; here the label is added to each
`by (…)` and `on (…)`, and aggregations into one value become one value per cluster. What stands in `scalar(…)` is of no
cluster: thresholds, and what a ruler knows of itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from gpuheal_rules.options import Options
from gpuheal_rules.promql.rule import AlertRule, Group, Record

AGGREGATIONS = re.compile("sum|min|max|avg|group|stddev|stdvar|count|count_values|bottomk|topk|quantile")
_TOKEN = re.compile(r'"(?:\\.|[^"\\])*"|[A-Za-z_:][A-Za-z0-9_:]*|\s+|.', re.DOTALL)


def by_cluster(group: Group, options: Options) -> Group:
    """Return the group with the cluster's label in every aggregation and match; the same group where there is none."""
    if not options.cluster_label:
        return group
    rules: list[Record | AlertRule] = [
        replace(rule, expr=keeping(rule.expr, options.cluster_label)) for rule in group.rules
    ]
    return replace(group, rules=tuple(rules))


def keeping(expr: str, label: str) -> str:
    """Return the expression with `label` in every grouping and matching, outside of scalar()."""
    return "".join(_kept(_TOKEN.findall(expr), label))


def _kept(tokens: Sequence[str], label: str) -> Iterator[str]:
    index = 0
    while index < len(tokens):
        word = tokens[index]
        opening = _next(tokens, index + 1)
        called = opening < len(tokens) and tokens[opening] == "("
        end = index + 1
        if word == "{":
            end = _closing(tokens, index) + 1
        elif word == "scalar" and called:
            end = _closing(tokens, opening) + 1
        elif word in {"by", "on"} and called:
            closing = _closing(tokens, opening)
            yield from _with(tokens[index : closing + 1], label)
            index = closing + 1
            continue
        elif AGGREGATIONS.fullmatch(word) and called:
            after = _next(tokens, _closing(tokens, opening) + 1)
            if after >= len(tokens) or tokens[after] not in {"by", "without"}:
                yield f"{word} by ({label}) "
                index = opening
                continue
        yield from tokens[index:end]
        index = end


def _with(grouping: Sequence[str], label: str) -> Iterator[str]:
    """Yield `by (a, b)` or `on ()` with the label as the first of its labels."""
    if label in grouping:
        yield from grouping
        return
    opening = grouping.index("(")
    others = "".join(grouping[opening + 1 : -1]).strip()
    yield from grouping[: opening + 1]
    yield f"{label}, {others})" if others else f"{label})"


def _next(tokens: Sequence[str], index: int) -> int:
    while index < len(tokens) and tokens[index].isspace():
        index += 1
    return index


def _closing(tokens: Sequence[str], opening: int) -> int:
    """Return the index of the parenthesis or brace that closes the one at `opening`."""
    pairs = {"(": ")", "{": "}"}
    first, depth = tokens[opening], 0
    for index in range(opening, len(tokens)):
        depth += (tokens[index] == first) - (tokens[index] == pairs[first])
        if depth == 0:
            return index
    raise ValueError(f"{first} is never closed in {''.join(tokens)!r}")
