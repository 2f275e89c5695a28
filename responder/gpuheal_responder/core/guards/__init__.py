"""The guards: five families, always all of them, in this order. Each returns its refusals; none is a refusal's absence.

A guard is a pure function `(Question) -> Iterable[Refusal]`. A policy can only tighten what they demand.
"""

from __future__ import annotations

from gpuheal_responder.core.guards import budget, history, permission, signal, workload
from gpuheal_responder.core.guards.question import Question
from gpuheal_responder.core.verdict import Refusal

FAMILIES = (signal.check, budget.check, history.check, workload.check, permission.check)


def check(question: Question) -> tuple[Refusal, ...]:
    """Return every refusal of every family, in family order; empty means the step may be performed.

    Pods are only read when nothing else refuses, so that they are unknown is told only when it alone stands in the way.
    """
    refusals = tuple(refusal for family in FAMILIES for refusal in family(question))
    return tuple(r for r in refusals if r.reason != workload.UNREAD) or refusals
