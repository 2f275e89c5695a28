"""What the guards are asked: may this step of this case be performed in this world?"""

from __future__ import annotations

from dataclasses import dataclass

from gpuheal_responder.core.case import AttemptState, Case
from gpuheal_responder.core.life import started
from gpuheal_responder.core.policy import Policy
from gpuheal_responder.core.step import Phase, Step
from gpuheal_responder.core.world import World


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One step of one case under one policy in one world."""

    case: Case
    policy: Policy
    step: Step
    world: World

    @property
    def in_flight(self) -> bool:
        """True once a disruptive step of this case has begun."""
        return started(self.case)

    @property
    def giving_back(self) -> bool:
        """True for the steps after the cure: they prove and return, and budgets never block them."""
        return self.step.spec.phase >= Phase.PROVE

    @property
    def continuing(self) -> bool:
        """True when the step itself has begun and goes on to its next safe point."""
        latest = self.case.latest(self.step.key)
        return latest is not None and latest.state is AttemptState.RUNNING
