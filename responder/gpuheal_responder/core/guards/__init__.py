"""The guards: a table of questions, each asked at the moments its row names, always all of them.

A guard is a pure function `(Question) -> Iterable[Refusal]`; no refusal is its yes. A policy can only tighten what they
demand. A guard that needs a closer look at the node is asked when that has been taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from gpuheal_responder.core.guards import budget, fleet, history, permission, signal, workload
from gpuheal_responder.core.guards.question import Moment, Question
from gpuheal_responder.core.verdict import Refusal
from gpuheal_responder.core.world import Need

_M = Moment
_BEGIN = frozenset({_M.START, _M.FLIGHT})
_FIRST = frozenset({_M.CONTAIN, _M.START})
_PODS, _LOCK = frozenset({Need.PODS}), frozenset({Need.LOCK})


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """One row: the family it is told under, its question, when it is asked, and what must have been read for it."""

    family: str
    ask: Callable[[Question], Iterable[Refusal]]
    moments: frozenset[Moment]
    needs: frozenset[Need] = frozenset()

    @property
    def name(self) -> str:
        """Name of the question, such as `unsilenced`."""
        return self.ask.__name__


def _guard(
    ask: Callable[[Question], Iterable[Refusal]], moments: Iterable[Moment], needs: frozenset[Need] = frozenset()
) -> Guard:
    family = ask.__module__.rpartition(".")[2]
    return Guard(family=family, ask=ask, moments=frozenset(moments), needs=needs)


GUARDS = (
    _guard(signal.answered, {*_FIRST, _M.FLIGHT}),
    _guard(signal.active, _FIRST),
    _guard(signal.unsuppressed, _FIRST),
    _guard(signal.unsilenced, {*_FIRST, _M.FLIGHT}),
    _guard(signal.confident, _FIRST),
    _guard(signal.unsettled, _FIRST),
    _guard(signal.identified, {_M.START}),
    _guard(signal.proven, {_M.RETURN}),
    _guard(budget.marks, {_M.CONTAIN}),
    _guard(budget.domains, {_M.START}),
    _guard(budget.last_of_pool, {_M.START}),
    _guard(fleet.alone, _BEGIN),
    _guard(history.attempts, {*_BEGIN}),
    _guard(history.readable, _BEGIN),
    _guard(history.steady, {_M.RETURN}),
    _guard(workload.control_plane, _BEGIN),
    _guard(workload.readable, {*_BEGIN, _M.EMPTYING}, _PODS),
    _guard(workload.unprotected, {*_BEGIN, _M.EMPTYING}, _PODS),
    _guard(workload.unused, _BEGIN, _PODS),
    _guard(workload.gang_whole, {_M.START}, _PODS),
    _guard(permission.mode_allows, _M),
    _guard(permission.unpaused, _M),
    _guard(permission.unfrozen, {*_BEGIN, _M.RETURN}),
    _guard(permission.unheld, set(_M) - {_M.EMPTYING, _M.RUNNING}),
    _guard(permission.left_to_us, {_M.CONTAIN, _M.KEEP, *_BEGIN}),
    _guard(permission.settled_boot, {_M.START}),
    _guard(permission.unlocked, _BEGIN, _LOCK),
    _guard(permission.provided, _BEGIN),
    _guard(permission.approved, _BEGIN),
)
"""Every guard, in the order in which refusals are told."""


def check(question: Question) -> tuple[tuple[Refusal, ...], frozenset[Need]]:
    """Return every refusal, in the table's order, and what has to be read before the guards left out can be asked.

    Both empty means that the step may be performed.
    """
    moment, seen = question.moment, question.world.seen
    asked = [g for g in GUARDS if moment in g.moments]
    refusals = tuple(r for g in asked if g.needs <= seen for r in g.ask(question))
    return refusals, frozenset(n for g in asked for n in g.needs - seen)
