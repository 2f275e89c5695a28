"""What a decision can be; every one carries its reason as a slug of core.reason."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from gpuheal_responder.core.case import Result
from gpuheal_responder.core.reason import Reason
from gpuheal_responder.core.step import Due
from gpuheal_responder.core.world import Need


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A guard's no: which guard, why (a slug), in words, and who or what must change.

    `retry_in` is None when only an outside change can lift it.
    """

    guard: str
    reason: str
    message: str
    blockers: tuple[str, ...] = ()
    retry_in: timedelta | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """Perform this step on its target now."""

    due: Due
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspect:
    """The decision needs a closer look at the node: read these and decide again."""

    due: Due
    needs: frozenset[Need]

    @property
    def reason(self) -> str:
        """What is to be read."""
        return Reason.LOOKING_CLOSER


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """A step is under way or the time has not come; look again at `until` at the latest."""

    due: Due
    until: datetime
    reason: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """Nothing must be done now; the first refusal is the one to tell. `due` is None when no step can be named."""

    due: Due | None
    refusals: tuple[Refusal, ...]

    @property
    def reason(self) -> str:
        """The reason of the first refusal in guard order."""
        return self.refusals[0].reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Escalate:
    """People have to take a look; the node stays contained."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """The case is over."""

    result: Result
    reason: str
    message: str = ""


Verdict = Act | Inspect | Wait | Hold | Escalate | Done


def due_of(verdict: Verdict) -> Due | None:
    """Return the step that the verdict is about, if it is about one."""
    return None if isinstance(verdict, Escalate | Done) else verdict.due
