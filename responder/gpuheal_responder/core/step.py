"""A step of a policy, the action it stands for, what it is due on, and how far it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Any

from gpuheal_responder.core.case import Case
from gpuheal_responder.core.node import Change, Node
from gpuheal_responder.core.phase import Phase
from gpuheal_responder.core.world import Need, World

WHOLE_NODE = ""
"""Target of a step that acts on the node."""


class Scope(StrEnum):
    """What one performance of an action acts on: one GPU, the node, or a failure domain."""

    GPU = "gpu"
    NODE = "node"
    DOMAIN = "domain"

    @property
    def rank(self) -> int:
        """Position from 0 (gpu) to 2 (domain): the wider scope serves all narrower ones."""
        return list(Scope).index(self)


class Empties(StrEnum):
    """Who has to be gone before an action may begin: nobody, the pods that hold this GPU, or all pods of the node."""

    NONE = "none"
    GPU = "gpu"
    NODE = "node"


class Repeat(StrEnum):
    """Whether a call may be made again when its outcome is unknown, or the other side must be asked first."""

    SAFE = "safe"
    ONCE = "once"


class ProgressState(StrEnum):
    """How far a step is, judged from the world alone."""

    TODO = "todo"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a step is and why; `detail` names what is still missing, or who blocks it.

    `blamed` names the GPUs that a failed proof is about; empty means that it cannot tell.
    """

    state: ProgressState
    reason: str
    detail: str = ""
    blamed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionSpec:
    """The pure half of an action: its name, its place in the ladder, what it needs and how its progress is read.

    `disruptive` marks what can end a process or re-admit a device. `effect` is False for steps that only wait and look.
    `marks` is True for steps that put the undo record on the node, `announces` says which further changes the undo
    record must hold before the step makes them. `survives_node` is True when the Node object may vanish while the
    operation goes on. `provider` names who performs the step, if a provider does: an empty text is the site's default.
    `pauses` names operands that must stand still meanwhile, by node label and the value that stops each; `touches` the
    GPUs that one performance acts on besides its target, such as all of a board that resets them together.
    `needs` is what has to be read closely before the step's progress can be judged. `reasons` are
    those that only this action gives: slug to sentence, as in core.reason.
    """

    name: str
    phase: Phase
    disruptive: bool
    deadline: timedelta
    params: type
    progress: Callable[[Due, Case, World], Progress]
    scope: Scope = Scope.NODE
    empties: Empties = Empties.NONE
    repeat: Repeat = Repeat.SAFE
    survives_node: bool = False
    effect: bool = True
    marks: bool = False
    announces: Callable[[Case, Node], tuple[Change, ...]] | None = None
    provider: Callable[[Due], str] | None = None
    pauses: Mapping[str, str] = field(default_factory=dict)
    touches: Callable[[Due, Case], tuple[str, ...]] | None = None
    needs: frozenset[Need] = frozenset()
    reasons: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One action with its parameters at one place of a policy; `key` is unique in the policy, such as `reboot-2`."""

    key: str
    spec: ActionSpec
    params: Any
    deadline: timedelta

    @property
    def action(self) -> str:
        """Name of the action."""
        return self.spec.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """A step on its target: a GPU's UUID, or the whole node."""

    step: Step
    target: str = WHOLE_NODE

    @property
    def key(self) -> str:
        """What approvals and people name it by: `reboot`, or `gpu_reset/GPU-1b2c…`."""
        return f"{self.step.key}/{self.target}" if self.target else self.step.key

    @property
    def spec(self) -> ActionSpec:
        """The action's pure half."""
        return self.step.spec

    @property
    def action(self) -> str:
        """Name of the action."""
        return self.step.spec.name

    @property
    def params(self) -> Any:
        """The step's parameters."""
        return self.step.params

    @property
    def deadline(self) -> timedelta:
        """How long the step may take."""
        return self.step.deadline
