"""Steps of real actions, for verdicts to name."""

from __future__ import annotations

from gpuheal_responder.actions import SPECS
from gpuheal_responder.core.step import Step


def step(action: str) -> Step:
    """Return a step with the action's default parameters."""
    spec = SPECS[action]
    return Step(key=action, spec=spec, params=spec.params(), deadline=spec.deadline)


TAINT = step("taint")
