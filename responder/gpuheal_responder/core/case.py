"""A case: our handling of one node's faults.

A case belongs to a node, not to a GPU: cordon, drain and reboot act on nodes, so two faulty GPUs of one node are one
case with two faults, and one undo record.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from gpuheal_responder.core.alert import Fault


class AttemptState(StrEnum):
    """Life of one attempt at one step; `intent` seen by a later look means the outcome is unknown."""

    INTENT = "intent"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One attempt at one step of a case, with what the node was when it began."""

    step: str
    action: str
    operation: str
    state: AttemptState
    started_at: datetime
    ended_at: datetime | None = None
    reason: str = ""
    detail: str = ""
    boot_id: str = ""
    cure: bool = False

    @property
    def open(self) -> bool:
        """True while the attempt has no end."""
        return self.state in {AttemptState.INTENT, AttemptState.RUNNING}


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """A person's yes to one step on one evidence, until it expires."""

    step: str
    evidence: str
    by: str
    expires_at: datetime


class Result(StrEnum):
    """How a case ended."""

    RESTORED = "restored"
    CLEARED = "cleared"
    GONE = "gone"
    TAKEN_OVER = "taken-over"
    REVERTED = "reverted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Our handling of one node's faults, from the first alert to the proof that the node is well."""

    name: str
    node: str
    opened_at: datetime
    policy: str
    faults: tuple[Fault, ...] = ()
    node_uid: str = ""
    system_uuid: str = ""
    gpus: tuple[str, ...] = ()
    gangs: tuple[str, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    approvals: tuple[Approval, ...] = ()
    escalated: str = ""
    closed_at: datetime | None = None
    result: Result | None = None

    def latest(self, step: str) -> Attempt | None:
        """Return the newest attempt at `step`, or None."""
        return next((a for a in reversed(self.attempts) if a.step == step), None)
