"""Keep the proven node contained for a quiet time; a fault seen meanwhile ends it.

Of the GPUs that come back broken within 30 days, half do so on the first day (Titan, failure-model notes), so a quiet
time is the cheapest test there is.

```yaml
steps:
- taint
- verify
- probation: {quiet: 10m}
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

EVALUATIONS = 2
GRACE = timedelta(minutes=10)


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """`quiet` is how long no fault may be seen."""

    quiet: timedelta = timedelta(minutes=10)


def progress(step: Step, case: Case, world: World) -> Progress:
    """Done when the quiet time is over and the GPUs are still provably well; failed when a fault is seen."""
    attempt = case.latest(step.key)
    if attempt is None:
        return Progress(state=ProgressState.TODO, reason="probation-due")
    if not attempt.open:
        done = attempt.state is AttemptState.SUCCEEDED
        state = ProgressState.DONE if done else ProgressState.FAILED
        return Progress(state=state, reason=attempt.reason, detail=attempt.detail)
    again = ev.relapse(world, proof_since(case, step.key))
    if again is not None:
        detail = f"{again.witness_class.value} saw {again.fault} at {again.last_seen_at.isoformat()}"
        return Progress(state=ProgressState.FAILED, reason="fault-again", detail=detail)
    ends_at = attempt.started_at + step.params.quiet
    if world.now < ends_at:
        return Progress(state=ProgressState.RUNNING, reason="probation", detail=f"until {ends_at.isoformat()}")
    if world.node is None:
        return Progress(state=ProgressState.RUNNING, reason="probation", detail="the node is not there")
    missing = ev.missing_proof(
        node=world.node,
        gpus=case.gpus,
        evidence=world.evidence,
        since=attempt.started_at,
        evaluations=EVALUATIONS,
    )
    if not missing:
        return Progress(state=ProgressState.DONE, reason="quiet")
    if world.now >= ends_at + GRACE:
        return Progress(state=ProgressState.FAILED, reason="probation-unproven", detail="; ".join(missing[:4]))
    return Progress(state=ProgressState.RUNNING, reason="probation", detail="; ".join(missing[:4]))


ACTION = Action(
    spec=ActionSpec(
        name="probation",
        phase=Phase.WATCH,
        disruptive=False,
        effect=False,
        deadline=timedelta(days=1),
        params=Params,
        progress=progress,
    ),
    rbac=(),
    run=look_only,
)
