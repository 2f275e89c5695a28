"""What the guards are asked: may this step of this case be performed in this world?"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from gpuheal_responder.core.case import AttemptState, Case
from gpuheal_responder.core.life import contained, in_flight
from gpuheal_responder.core.phase import Phase
from gpuheal_responder.core.policy import Policy
from gpuheal_responder.core.step import Due
from gpuheal_responder.core.world import World


class Moment(StrEnum):
    """At which point of a case a step stands; which guards are asked depends on nothing else.

    `contain` puts the first marks on a node, `keep` completes them or puts them back. `start` begins what disrupts,
    `flight` is a further such step once one has begun, `emptying` and `running` are steps that go on to their next safe
    point. `look` only looks, `return` gives the node back.
    """

    CONTAIN = "contain"
    KEEP = "keep"
    START = "start"
    FLIGHT = "flight"
    EMPTYING = "emptying"
    RUNNING = "running"
    LOOK = "look"
    RETURN = "return"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One step of one case under one policy in one world; `before` is the cure that the step makes room for."""

    case: Case
    policy: Policy
    due: Due
    world: World
    before: Due | None = None

    @property
    def moment(self) -> Moment:
        """Where the step stands."""
        match self.due.spec.phase:
            case Phase.CONTAIN:
                return Moment.KEEP if contained(self.case, self.world.node) else Moment.CONTAIN
            case Phase.PROVE | Phase.WATCH:
                return Moment.LOOK
            case Phase.RETURN:
                return Moment.RETURN
        latest = self.case.latest(self.due.step.key, self.due.target)
        if latest is not None and latest.state is AttemptState.RUNNING:
            return Moment.EMPTYING if self.due.spec.phase is Phase.EMPTY else Moment.RUNNING
        return Moment.FLIGHT if in_flight(self.case, self.world.node) else Moment.START
