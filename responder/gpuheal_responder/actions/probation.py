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

from gpuheal_responder.actions.action import Action, ended, look_only
from gpuheal_responder.core import evidence as ev
from gpuheal_responder.core.case import Case
from gpuheal_responder.core.life import proof_since
from gpuheal_responder.core.phase import Phase
from gpuheal_responder.core.reason import Reason
from gpuheal_responder.core.step import ActionSpec, Due, Progress, ProgressState
from gpuheal_responder.core.world import World

EVALUATIONS = 2
GRACE = timedelta(minutes=10)


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """`quiet` is how long no fault may be seen."""

    quiet: timedelta = timedelta(minutes=10)


def progress(due: Due, case: Case, world: World) -> Progress:
    """Done when the quiet time is over and the GPUs are still provably well; failed when a fault is seen."""
    attempt = case.latest(due.step.key)
    if attempt is None:
        return Progress(state=ProgressState.TODO, reason=Reason.PROBATION_DUE)
    if not attempt.open:
        return ended(attempt)
    again = ev.relapses(case, world, proof_since(case, due.step.key))
    if again:
        return Progress(
            state=ProgressState.FAILED, reason=ev.again_for(again), detail=ev.said(again), blamed=ev.gpus_of(again)
        )
    ends_at = attempt.started_at + due.params.quiet
    if world.now < ends_at:
        until = f"until {ends_at.isoformat(timespec='seconds')}"
        return Progress(state=ProgressState.RUNNING, reason=Reason.PROBATION, detail=until)
    lacking = ev.unproven(case, world, since=attempt.started_at, evaluations=EVALUATIONS)
    if not lacking:
        return Progress(state=ProgressState.DONE, reason=Reason.QUIET)
    detail = "; ".join(lack.text for lack in lacking[:4])
    if world.now >= ends_at + GRACE:
        reason = ev.unproven_for(lacking, Reason.PROBATION_UNPROVEN)
        blamed = ev.lacking_about(lacking)
        return Progress(state=ProgressState.FAILED, reason=reason, detail=detail, blamed=blamed)
    return Progress(state=ProgressState.RUNNING, reason=Reason.PROBATION, detail=detail)


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
