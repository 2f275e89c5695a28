"""What happened when: the steps of one healing with their reasons, told live and kept for the summary and the JSON."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from gpuheal_responder.core.case import Attempt, AttemptState, Case
from gpuheal_responder.core.verdict import Hold, Verdict

LINE = 110
BEGUN = "begun"
_UUID = re.compile(r"\b((?:GPU-)?[0-9a-f]{8})-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b")
# What the actions do, for people who see them for the first time.
MEANING = {
    "taint": "taint gpu.health/unhealthy=true:NoSchedule and the undo record, in one PATCH",
    "cordon": "cordon, in the same PATCH",
    "condition": "condition GPUHealthy=False",
    "drain": "pods are evicted through the Eviction API, respecting PodDisruptionBudgets",
    "reboot": "the machine is rebooted",
    "verify": "every GPU is verified healthy, by rule evaluations after the reboot",
    "probation": "the verified node is on probation",
    "restore": "exactly the changes made are reverted",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing that happened; `ended_at` is None while it goes on."""

    name: str
    started_at: datetime
    ended_at: datetime | None = None
    reason: str = ""

    def as_json(self) -> dict[str, Any]:
        """The step as plain data, times in ISO 8601."""
        ended = self.ended_at.isoformat() if self.ended_at is not None else None
        return {"name": self.name, "started_at": self.started_at.isoformat(), "ended_at": ended, "reason": self.reason}


@dataclass(slots=True)
class Timeline:
    """Steps in the order they began; every change is told through `say`."""

    say: Callable[[str], None]
    began_at: datetime | None = None
    steps: dict[str, Step] = field(default_factory=dict)
    _held: tuple[str, ...] = ()

    def at_once(self, name: str, at: datetime, reason: str) -> None:
        """The step happened at one moment."""
        self.put(name, Step(name=name, started_at=at, ended_at=at, reason=reason))

    def put(self, key: str, step: Step) -> None:
        """The step is as given; its begin and its end are told. `key` tells two steps of one name apart."""
        known = self.steps.get(key)
        self.steps[key] = step
        if known is None or known.ended_at != step.ended_at:
            self._tell(step)

    def follow(self, case: Case) -> None:
        """The steps of a case are told as far as they got, each with what it does, what keeps it, and its end."""
        for attempt in case.attempts:
            key, step = attempt.operation, step_of(attempt)
            known = self.steps.get(key)
            if known is None and attempt.action in MEANING:
                self._tell(replace(step, ended_at=None, reason=MEANING[attempt.action]))
                self.steps[key] = known = replace(step, ended_at=None, reason="")
            news = known is not None and step.reason != BEGUN and _kind(known.reason) != _kind(step.reason)
            if news and step.ended_at is None:
                self.say(f"{'':13}{attempt.step:<12} {short(step.reason)}")
            self.put(key, step)

    def held(self, verdict: Verdict | None) -> None:
        """What keeps the next step from beginning is told once for each set of reasons."""
        refusals = verdict.refusals if isinstance(verdict, Hold) else ()
        reasons = tuple(r.reason for r in refusals)
        if isinstance(verdict, Hold) and reasons != self._held:
            step = verdict.due.key if verdict.due is not None else "case"
            for refusal in refusals:
                self.say(f"{'':13}{step:<12} held: {short(f'{refusal.reason}: {refusal.message}')}")
        self._held = reasons

    def ordered(self) -> Sequence[Step]:
        """All steps by when they began."""
        return sorted(self.steps.values(), key=lambda s: s.started_at)

    def _tell(self, step: Step) -> None:
        if self.began_at is None:
            self.began_at = step.started_at
        at = step.ended_at or step.started_at
        took = ""
        if step.ended_at is not None and step.ended_at > step.started_at:
            took = f" (took {seconds(step.ended_at - step.started_at):.1f} s)"
        mark = "✓" if step.ended_at is not None else "…"
        self.say(f"{seconds(at - self.began_at):7.2f} s  {mark} {step.name:<12} {short(step.reason)}{took}")


def step_of(attempt: Attempt) -> Step:
    """An attempt of a case as a step; its reason is the slug with what is known beside it."""
    reason = ": ".join(word for word in (attempt.reason or BEGUN, attempt.detail) if word)
    return Step(
        name=attempt.step,
        started_at=attempt.started_at,
        ended_at=attempt.ended_at,
        reason=f"failed: {reason}" if attempt.state is AttemptState.FAILED else reason,
    )


def seconds(span: timedelta) -> float:
    """The span in seconds."""
    return span.total_seconds()


def _kind(reason: str) -> str:
    """The slug a reason begins with: what follows may change at every look."""
    return reason.partition(":")[0]


def short(text: str) -> str:
    """The text as it fits on a line: UUIDs by their first part, the rest cut."""
    text = _UUID.sub(r"\1", text)
    return text if len(text) <= LINE else f"{text[: LINE - 1]}…"
