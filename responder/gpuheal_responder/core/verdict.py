"""What a decision can be; every one carries its reason as a slug."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from gpuheal_responder.core.case import Result
from gpuheal_responder.core.step import Step


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
    """Perform this step now."""

    step: Step
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """A step is under way or the time has not come; look again at `until` at the latest."""

    step: Step
    until: datetime
    reason: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """The step must not be performed now; the first refusal is the one to tell."""

    step: Step
    refusals: tuple[Refusal, ...]

    @property
    def reason(self) -> str:
        """The reason of the first refusal in guard order."""
        return self.refusals[0].reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Escalate:
    """People must look; the node stays contained."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """The case is over."""

    result: Result
    reason: str
    message: str = ""


Verdict = Act | Wait | Hold | Escalate | Done
