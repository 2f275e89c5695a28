"""Wait for a positive proof that every GPU of the node is well, counted from the end of the last cure.

A resolved alert is no proof and a missing series is none either. A fault seen again after the cure fails it at once.

```yaml
steps:
- taint
- verify: {evaluations: 4, deadline: 15m}
```
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from gpuheal_responder.actions.action import Action, look_only
from gpuheal_responder.core import evidence as ev
from gpuheal_responder.core.case import AttemptState, Case
from gpuheal_responder.core.life import proof_since
from gpuheal_responder.core.step import ActionSpec, Phase, Progress, ProgressState, Step
from gpuheal_responder.core.world import World


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """`evaluations` is how many rule evaluations in a row must call every GPU ok; at least 2."""

    evaluations: int = 4

    def __post_init__(self) -> None:
        if not 2 <= self.evaluations <= 100:
            raise ValueError(f"evaluations must be from 2 to 100, got {self.evaluations}")


def progress(step: Step, case: Case, world: World) -> Progress:
    """Done when proven; failed when a fault is seen after the last cure, or at the deadline with what is missing."""
    attempt = case.latest(step.key)
    if attempt is None:
        return Progress(state=ProgressState.TODO, reason="verify-due")
    if not attempt.open:
        done = attempt.state is AttemptState.SUCCEEDED
        state = ProgressState.DONE if done else ProgressState.FAILED
        return Progress(state=state, reason=attempt.reason, detail=attempt.detail)
    since = proof_since(case, step.key)
    again = ev.relapse(world, since)
    if again is not None:
        detail = f"{again.witness_class.value} saw {again.fault} at {again.last_seen_at.isoformat()}"
        return Progress(state=ProgressState.FAILED, reason="fault-again", detail=detail)
    if world.node is None:
        return Progress(state=ProgressState.RUNNING, reason="verifying", detail="the node is not there")
    missing = ev.missing_proof(
        node=world.node,
        gpus=case.gpus,
        evidence=world.evidence,
        since=since,
        evaluations=step.params.evaluations,
    )
    if not missing:
        return Progress(state=ProgressState.DONE, reason="proven")
    if world.now - attempt.started_at >= step.deadline:
        return Progress(state=ProgressState.FAILED, reason="verify-deadline", detail="; ".join(missing[:4]))
    return Progress(state=ProgressState.RUNNING, reason="verifying", detail="; ".join(missing[:4]))


ACTION = Action(
    spec=ActionSpec(
        name="verify",
        phase=Phase.PROVE,
        disruptive=False,
        effect=False,
        deadline=timedelta(minutes=15),
        params=Params,
        progress=progress,
    ),
    rbac=(),
    run=look_only,
)
