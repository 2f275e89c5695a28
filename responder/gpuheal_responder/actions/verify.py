"""Wait for a positive proof that every GPU of the node is well, counted from the end of the last cure.

A resolved alert is no proof and a missing series is none either. A fault seen again after the cure fails it at once.
At the deadline the next cure follows only where a GPU of the case is seen to be unwell; when nobody tells how the node
is, the case is escalated. A GPU that no fault of the case is about may be degraded, but not faulty.

```yaml
steps:
- taint
- verify: {evaluations: 4, deadline: 15m}
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

MOST_EVALUATIONS = 20
"""The responder reads the last ten minutes (setting health_window), which hold so many evaluations every 30 s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """`evaluations` is how many rule evaluations in a row must call every GPU ok, from 2 to 20."""

    evaluations: int = 4

    def __post_init__(self) -> None:
        if not 2 <= self.evaluations <= MOST_EVALUATIONS:
            raise ValueError(f"evaluations must be from 2 to {MOST_EVALUATIONS}, got {self.evaluations}")


def progress(due: Due, case: Case, world: World) -> Progress:
    """Done when proven; failed when a fault is seen after the last cure, or at the deadline with what is missing."""
    attempt = case.latest(due.step.key)
    if attempt is None:
        return Progress(state=ProgressState.TODO, reason=Reason.VERIFY_DUE)
    if not attempt.open:
        return ended(attempt)
    since = proof_since(case, due.step.key)
    again = ev.relapses(case, world, since)
    if again:
        return Progress(
            state=ProgressState.FAILED, reason=ev.again_for(again), detail=ev.said(again), blamed=ev.gpus_of(again)
        )
    lacking = ev.unproven(case, world, since=since, evaluations=due.params.evaluations)
    if not lacking:
        return Progress(state=ProgressState.DONE, reason=Reason.PROVEN)
    detail = "; ".join(lack.text for lack in lacking[:4])
    if world.now - attempt.started_at >= due.deadline:
        reason = ev.unproven_for(lacking, Reason.VERIFY_DEADLINE)
        blamed = ev.lacking_about(lacking)
        return Progress(state=ProgressState.FAILED, reason=reason, detail=detail, blamed=blamed)
    return Progress(state=ProgressState.RUNNING, reason=Reason.VERIFYING, detail=detail)


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
