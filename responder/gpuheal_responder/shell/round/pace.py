"""How often the engine looks, and how much it does at once."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from gpuheal_responder.core.verdict import Hold, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How often the engine looks and how much it does at once."""

    tick: timedelta = timedelta(seconds=30)
    """Longest time between two looks."""
    poll: timedelta = timedelta(seconds=2)
    """Time to the next look while a step is under way."""
    gap: timedelta = timedelta(milliseconds=200)
    """Shortest time between two looks, however often we are woken."""
    concurrency: int = 32
    """Steps performed and writes made at the same time."""
    patience: timedelta = timedelta(seconds=1)
    """Longest time that a round waits for the steps it has begun; then they go on by themselves."""


def pause_after(verdict: Verdict, longest: timedelta) -> timedelta:
    """Return when to look again: when the first refusal of the verdict asks for it, at the latest after `longest`."""
    asked = [r.retry_in for r in verdict.refusals if r.retry_in] if isinstance(verdict, Hold) else []
    return min([longest, *asked])
