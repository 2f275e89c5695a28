"""What an action is: a pure description, the rights it needs, and one function that performs it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime

from gpuheal_responder.actions.turns import Turns
from gpuheal_responder.core.case import Attempt, AttemptState, Case
from gpuheal_responder.core.node import Node
from gpuheal_responder.core.policy import Policy
from gpuheal_responder.core.reason import Reason
from gpuheal_responder.core.step import ActionSpec, Due, Progress, ProgressState
from gpuheal_responder.core.world import OperationState, World
from gpuheal_responder.ports import Cluster, Machines


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One RBAC rule; the ClusterRole of the responder is the sum of these over all actions."""

    group: str
    resources: tuple[str, ...]
    verbs: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """Everything an action may use while it runs; `node` was read from the API server a moment ago."""

    case: Case
    policy: Policy
    due: Due
    attempt: Attempt
    node: Node
    world: World
    cluster: Cluster
    machines: Machines
    turns: Turns
    owner: str
    now: datetime
    may_act: Callable[[], bool] = lambda: True


@dataclass(frozen=True, slots=True, kw_only=True)
class Inquiry:
    """What an action may use to ask what became of an operation; `node` is None when it does not exist any more."""

    case: Case
    due: Due
    attempt: Attempt
    node: Node | None
    machines: Machines


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What performing did: `running` means that a later look will tell."""

    state: AttemptState
    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """An entry of the registry.

    An action whose call must not be repeated blindly offers `look`, which asks the other side what became of the
    operation, and `withdraw`, which takes a request back that has not been carried out; both may be asked repeatedly.
    """

    spec: ActionSpec
    rbac: tuple[Rule, ...]
    run: Callable[[Context], Awaitable[Outcome]]
    look: Callable[[Inquiry], Awaitable[OperationState]] | None = None
    withdraw: Callable[[Inquiry], Awaitable[None]] | None = None


def ended(attempt: Attempt) -> Progress:
    """Return the progress of a step whose attempt has ended."""
    done = attempt.state is AttemptState.SUCCEEDED
    return Progress(
        state=ProgressState.DONE if done else ProgressState.FAILED,
        reason=attempt.reason,
        detail=attempt.detail,
        blamed=attempt.blamed,
    )


def overdue(due: Due, attempt: Attempt, now: datetime) -> bool:
    """Return whether the attempt's time is up: the time that it was given when it began, if it was bound to one."""
    return now >= (attempt.deadline_at or attempt.started_at + due.deadline)


async def look_only(_ctx: Context) -> Outcome:
    """Do nothing: the step is judged by looking."""
    return Outcome(state=AttemptState.RUNNING, reason=Reason.BEGUN)
