"""Whether an expression can have a result at all, given which series there are: no is said only when it is certain."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import promql_parser as pp

from gpuheal_rules.promql.reach import Selector, selector_of

FROM_NOTHING = frozenset({"absent", "absent_over_time", "scalar", "time", "vector", "pi"})
"""Functions that have a result where their argument has none, or that have no argument."""


def can_yield(expr: str, shows: Callable[[Selector], bool]) -> bool:
    """Return whether an expression may have a result when `shows` says which selectors find a series."""
    return _yields(_parsed(expr), shows)


@cache
def _parsed(expr: str) -> Any:
    return pp.parse(expr)


def _yields(node: Any, shows: Callable[[Selector], bool]) -> bool:
    match node:
        case pp.VectorSelector():
            return shows(selector_of(node))
        case pp.MatrixSelector():
            return shows(selector_of(node.vector_selector))
        case pp.ParenExpr() | pp.UnaryExpr() | pp.SubqueryExpr() | pp.AggregateExpr():
            return _yields(node.expr, shows)
        case pp.Call():
            return node.func.name in FROM_NOTHING or all(_yields(argument, shows) for argument in node.args)
        case pp.BinaryExpr():
            left = _yields(node.lhs, shows)
            if str(node.op) == "unless":
                return left
            right = _yields(node.rhs, shows)
            return left or right if str(node.op) == "or" else left and right
        case _:
            return True
