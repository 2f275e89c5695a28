"""What an action is: a pure description, the rights it needs, and one function that performs it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime

from gpuheal_responder.core.case import Attempt, AttemptState, Case
from gpuheal_responder.core.node import Node
from gpuheal_responder.core.policy import Policy
from gpuheal_responder.core.step import ActionSpec, Step
from gpuheal_responder.core.world import World
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
    step: Step
    attempt: Attempt
    node: Node
    world: World
    cluster: Cluster
    machines: Machines
    owner: str
    now: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What performing did: `running` means that a later look will tell."""

    state: AttemptState
    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """An entry of the registry."""

    spec: ActionSpec
    rbac: tuple[Rule, ...]
    run: Callable[[Context], Awaitable[Outcome]]


async def look_only(_ctx: Context) -> Outcome:
    """Do nothing: the step is judged by looking."""
    return Outcome(state=AttemptState.RUNNING, reason="begun")
