"""A step of a policy, the action it stands for, and how far it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from enum import IntEnum, StrEnum
from typing import Any

from gpuheal_responder.core.case import Case
from gpuheal_responder.core.world import World


class Phase(IntEnum):
    """Order of the steps of a case: contain, empty, cure, prove, watch, give back."""

    CONTAIN = 0
    EMPTY = 1
    CURE = 2
    PROVE = 3
    WATCH = 4
    RETURN = 5


class ProgressState(StrEnum):
    """How far a step is, judged from the world alone."""

    TODO = "todo"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a step is and why; `detail` names what is still missing, or who blocks it."""

    state: ProgressState
    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionSpec:
    """The pure half of an action: its name, its place in the ladder, its parameters and how its progress is read.

    `disruptive` marks what can end a process or re-admit a device. `once` marks calls that must not be repeated without
    asking the other side first. `effect` is False for steps that only wait and look. `marks` is True for steps that put
    the undo record on the node.
    """

    name: str
    phase: Phase
    disruptive: bool
    deadline: timedelta
    params: type
    progress: Callable[[Step, Case, World], Progress]
    once: bool = False
    effect: bool = True
    marks: bool = False


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
