"""A case: our handling of one node's faults, from the first alert to the proof that the node is well.

A case belongs to a node: there is one drain and one undo record, whatever the number of faulty GPUs. Inside it every
faulty GPU has a track of its own up the ladder (see core.plan); attempts and approvals therefore name their target.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from gpuheal_responder.core.alert import Fault
from gpuheal_responder.core.phase import Phase

LONGEST_APPROVAL = timedelta(hours=24)
"""As long as the attempts window of a policy: what was decided on then is another matter afterwards."""
CLOCKS_DIFFER = timedelta(minutes=5)
"""So far a person's clock may be ahead of ours: kubeconfig and Kerberos live with no more either."""


class AttemptState(StrEnum):
    """Life of one attempt at one step; `intent` seen by a later look means the outcome is unknown."""

    INTENT = "intent"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One attempt at one step on one target (a GPU's UUID, or empty for the node), with what the node was at its start.

    `foreign` marks what others did to the machine while the case was open, such as a reboot. `blamed` names the GPUs
    that a failed proof is about. `provider` is who was asked, and `deadline_at` until when it may take: both stay what
    they were when the intent was written, whatever settings and policies say later.
    """

    step: str
    action: str
    phase: Phase
    operation: str
    state: AttemptState
    started_at: datetime
    target: str = ""
    ended_at: datetime | None = None
    reason: str = ""
    detail: str = ""
    boot_id: str = ""
    blamed: tuple[str, ...] = ()
    foreign: bool = False
    provider: str = ""
    deadline_at: datetime | None = None

    @property
    def open(self) -> bool:
        """True while the attempt has no end."""
        return self.state in {AttemptState.INTENT, AttemptState.RUNNING}

    @property
    def cure(self) -> bool:
        """True for an attempt at a cure, ours or another's."""
        return self.phase is Phase.CURE

    @property
    def key(self) -> str:
        """The key of the step and target: `reboot`, or `gpu_reset/GPU-1b2c…`."""
        return f"{self.step}/{self.target}" if self.target else self.step


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """A person's yes to one step (its key, target included) on one evidence, until it expires.

    Whatever it says itself, it lasts no longer than LONGEST_APPROVAL from when it was given: a fault of tomorrow is
    another decision. `given_at` is None in what an earlier version stored.
    """

    step: str
    evidence: str
    by: str
    expires_at: datetime
    given_at: datetime | None = None

    @property
    def ends_at(self) -> datetime:
        """Until when it counts, if it was not given for too long."""
        given = self.given_at
        return self.expires_at if given is None else min(self.expires_at, given + LONGEST_APPROVAL)

    def overlong(self, now: datetime) -> bool:
        """Return whether it is dated in the future, or says no date and lasts longer than any approval may."""
        given = self.given_at
        return self.expires_at > now + LONGEST_APPROVAL if given is None else given > now + CLOCKS_DIFFER

    def counts(self, now: datetime) -> bool:
        """Return whether it is in force."""
        return now < self.ends_at and not self.overlong(now)


class Result(StrEnum):
    """How a case ended."""

    RESTORED = "restored"
    CLEARED = "cleared"
    GONE = "gone"
    TAKEN_OVER = "taken-over"
    REVERTED = "reverted"
    SUPERSEDED = "superseded"


SETTLING = frozenset({Result.RESTORED, Result.TAKEN_OVER, Result.REVERTED})
"""Endings by proof or by a person: only these settle evidence. A message that stopped coming does not."""
TAKEN = frozenset({Result.TAKEN_OVER, Result.REVERTED})
"""Endings by a person, whose will stands until newer evidence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Our handling of one node's faults.

    `gpus` are the GPUs that must be proven well before the node is given back, `gpu_slots` their places. `boot_id` is
    the boot that we last knew of, `gpu_capacity` what the node counted when the case was opened. `quiet_since` is when
    the faults were first seen to be witnessed by nobody; `settled_at` when the node was given back: evidence counts as
    settled until then.
    """

    name: str
    node: str
    opened_at: datetime
    policy: str
    faults: tuple[Fault, ...] = ()
    node_uid: str = ""
    system_uuid: str = ""
    boot_id: str = ""
    gpus: tuple[str, ...] = ()
    gpu_slots: Mapping[str, str] = field(default_factory=dict)
    gpu_capacity: int = 0
    gangs: tuple[str, ...] = ()
    domains: Mapping[str, str] = field(default_factory=dict)
    attempts: tuple[Attempt, ...] = ()
    approvals: tuple[Approval, ...] = ()
    quiet_since: datetime | None = None
    escalated: str = ""
    closed_at: datetime | None = None
    settled_at: datetime | None = None
    result: Result | None = None

    def latest(self, step: str, target: str = "") -> Attempt | None:
        """Return the newest attempt at `step` on `target`, or None."""
        return next((a for a in reversed(self.attempts) if a.step == step and a.target == target), None)
