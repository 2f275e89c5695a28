"""What goes wrong on the way to a simulated server: refusals, timeouts after the fact, and the death of the caller."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

from gpuheal_lab.fleet.clock import Schedule
from gpuheal_responder.errors import GpuhealError, ObserveError, Permanent, Transient

T = TypeVar("T")

READS = frozenset({"nodes", "node", "pods_on", "lock_of", "list", "lookup", "controls"})


class Killed(BaseException):
    """The process that called was killed at this point (as by kill -9); nothing of it may run on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call that reached the server; `answered` is False when the caller got an error although it took effect."""

    at: datetime
    method: str
    target: str
    detail: str = ""
    answered: bool = True


@dataclass(slots=True, kw_only=True)
class _Planned:
    method: str
    error: BaseException
    applied: bool
    target: str | None
    left: int


def conflict() -> GpuhealError:
    """HTTP 409."""
    return Transient("conflict", "409 Conflict: the object has been modified")


def throttled() -> GpuhealError:
    """HTTP 429 by priority and fairness, not by a disruption budget."""
    return Transient("throttled", "429 Too Many Requests", retry_in=timedelta(seconds=1))


def server_error() -> GpuhealError:
    """HTTP 500."""
    return Transient("api-unavailable", "500 Internal Server Error")


def timeout() -> GpuhealError:
    """No answer within the deadline; whether the call took effect is not known."""
    return Transient("api-unavailable", "no answer in time")


def forbidden() -> GpuhealError:
    """HTTP 403."""
    return Permanent("forbidden", "403 Forbidden")


def unseen(source: str = "kubernetes") -> GpuhealError:
    """A read that failed."""
    return ObserveError(source, "no answer in time")


class Gate:
    """Every call of a port passes here: it is recorded, and what was planned to go wrong goes wrong.

    Crossings are counted over changing calls, two for each: before it takes effect and after. `kill_at(n)` ends the
    caller at the n-th, so that a loop over n visits every boundary there is.
    """

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self._planned: list[_Planned] = []
        self._kill_at: int | None = None
        self.calls: list[Call] = []
        self.crossings = 0

    def fail_next(
        self, method: str, error: GpuhealError, *, times: int = 1, applied: bool = False, target: str | None = None
    ) -> None:
        """The next calls of `method` (on `target`, if given) raise `error`; with `applied`, after they took effect."""
        self._planned.append(_Planned(method=method, error=error, applied=applied, target=target, left=times))

    def kill_at(self, crossing: int | None) -> None:
        """The caller dies at this crossing, counted from 0 from now on; None takes the plan back."""
        self.crossings = 0
        self._kill_at = crossing

    def made(self, method: str, target: str | None = None) -> list[Call]:
        """The recorded calls of a method that took effect, on one target or on all."""
        return [c for c in self.calls if c.method == method and target in {None, c.target}]

    async def cross(self, method: str, target: str, effect: Callable[[], T], *, detail: str = "") -> T:
        """What `effect` returns, or the error that was planned. The loop gets one turn first, as with a real server."""
        await asyncio.sleep(0)
        self._schedule.catch_up()
        plan = self._plan(method, target)
        if plan is not None and not plan.applied:
            raise plan.error
        if method in READS:
            return self._result(plan, effect)
        self._maybe_kill()
        answer = effect()
        answered = plan is None
        self.calls.append(Call(at=self._schedule.now(), method=method, target=target, detail=detail, answered=answered))
        self._schedule.catch_up()
        self._maybe_kill()
        if plan is not None:
            raise plan.error
        return answer

    def _result(self, plan: _Planned | None, effect: Callable[[], T]) -> T:
        if plan is not None:
            raise plan.error
        return effect()

    def _plan(self, method: str, target: str) -> _Planned | None:
        for plan in self._planned:
            if plan.method == method and plan.target in {None, target}:
                plan.left -= 1
                if plan.left <= 0:
                    self._planned.remove(plan)
                return plan
        return None

    def _maybe_kill(self) -> None:
        crossing = self.crossings
        self.crossings += 1
        if crossing == self._kill_at:
            self._kill_at = None
            raise Killed(f"killed at crossing {crossing}")
