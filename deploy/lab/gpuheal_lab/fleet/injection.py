"""What goes wrong on the way to a simulated server: refusals, timeouts after the fact, and the death of the caller."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TypeVar

from gpuheal_lab.fleet.clock import Schedule
from gpuheal_responder.errors import GpuhealError, ObserveError, Permanent, Transient

T = TypeVar("T")

READS = frozenset({"nodes", "node", "pods_on", "lock_of", "list", "lookup", "controls", "histories", "unreadable"})

ACTOR: ContextVar[str] = ContextVar("actor", default="")
"""Who calls: one of several replicas, each of whose tasks carries its name."""


class Killed(BaseException):
    """The process that called was killed at this point (as by kill -9); nothing of it may run on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call that reached the server; `answered` is False when the caller got an error although it took effect.

    `asked_at` is when the caller sent it, earlier than `at` for a call that `hung` on its way.
    """

    at: datetime
    method: str
    target: str
    detail: str = ""
    answered: bool = True
    actor: str = ""
    asked_at: datetime
    hung: bool = False


@dataclass(slots=True, kw_only=True)
class Stall:
    """A call that hangs: `reached` once it does, until `release` is called."""

    reached: asyncio.Event = field(default_factory=asyncio.Event)
    released: asyncio.Event = field(default_factory=asyncio.Event)

    def release(self) -> None:
        """Let the call go on."""
        self.released.set()


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
    return Transient("api-unavailable", "timed out")


def forbidden() -> GpuhealError:
    """HTTP 403."""
    return Permanent("forbidden", "403 Forbidden")


def unseen(source: str = "kubernetes") -> GpuhealError:
    """A read that failed."""
    return ObserveError(source, "timed out")


class Gate:
    """Every call of a port passes here: it is recorded, and what was planned to go wrong goes wrong.

    Crossings are counted over changing calls, two for each: before it takes effect and after. `kill_at(n)` ends the
    caller at the n-th, so that a loop over n visits every boundary there is; `stall_at(n)` makes it hang there.
    `on_call` hears of every call that has just taken effect, before anything else can happen; `current` is the call
    that takes effect at this moment.
    """

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self._planned: list[_Planned] = []
        self._kill_at: int | None = None
        self._stall: tuple[int, Stall] | None = None
        self._dead: set[str] = set()
        self.calls: list[Call] = []
        self.refused: list[tuple[str, str]] = []
        """Method and target of calls that were refused, as planned, before they took effect."""
        self.on_call: list[Callable[[Call], None]] = []
        self.current: Call | None = None
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

    @contextlib.contextmanager
    def by_others(self) -> Iterator[None]:
        """What others do meanwhile crosses no boundary of ours: a plan to kill us does not end them."""
        kill_at, crossings = self._kill_at, self.crossings
        self._kill_at = None
        try:
            yield
        finally:
            self._kill_at, self.crossings = kill_at, crossings

    def stall_at(self, crossing: int) -> Stall:
        """The call that makes this crossing, counted from 0 from now on, hangs there until it is released."""
        self.crossings = 0
        stall = Stall()
        self._stall = (crossing, stall)
        return stall

    def planned(self, *methods: str) -> bool:
        """Whether a call of one of these methods will be refused."""
        return any(plan.method in methods for plan in self._planned)

    def clear_stall(self) -> None:
        """No call will hang."""
        self._stall = None

    def bury(self, actor: str) -> None:
        """The actor is dead: whatever of it still runs gets no further than to its next call."""
        self._dead.add(actor)

    def clear(self) -> None:
        """Nothing that was planned goes wrong any more."""
        self._planned.clear()
        self._kill_at = self._stall = None

    def made(self, method: str, target: str | None = None) -> list[Call]:
        """The recorded calls of a method that took effect, on one target or on all."""
        return [c for c in self.calls if c.method == method and target in {None, c.target}]

    async def cross(self, method: str, target: str, effect: Callable[[], T], *, detail: str = "") -> T:
        """What `effect` returns, or the error that was planned. The loop gets one turn first, as with a real server."""
        asked_at = self._schedule.clock.now()
        await asyncio.sleep(0)
        self._live()
        self._schedule.catch_up()
        plan = self._plan(method, target)
        if plan is not None and not plan.applied:
            self.refused.append((method, target))
            raise plan.error
        if method in READS:
            return self._result(plan, effect)
        hung = await self._boundary()
        call = Call(
            at=self._schedule.now(),
            method=method,
            target=target,
            detail=detail,
            answered=plan is None,
            actor=ACTOR.get(),
            asked_at=asked_at,
            hung=hung,
        )
        self.current = call
        try:
            answer = effect()
        finally:
            self.current = None
        self.calls.append(call)
        for hear in self.on_call:
            hear(call)
        self._schedule.catch_up()
        await self._boundary()
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

    async def _boundary(self) -> bool:
        """The caller crosses a boundary: it may die there, or hang. Whether it hung."""
        crossing = self.crossings
        self.crossings += 1
        if crossing == self._kill_at:
            self._kill_at = None
            raise Killed(f"killed at crossing {crossing}")
        if self._stall is not None and crossing == self._stall[0]:
            stall = self._stall[1]
            self._stall = None
            stall.reached.set()
            await stall.released.wait()
            self._live()
            self._schedule.catch_up()
            return True
        return False

    def _live(self) -> None:
        if ACTOR.get() in self._dead:
            raise Killed(f"{ACTOR.get()} is dead")
