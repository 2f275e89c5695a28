"""What people see of a case in `kubectl get remediations`."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from gpuheal_responder.core.alert import Fault, Severity, Target
from gpuheal_responder.core.case import Case, Result
from gpuheal_responder.shell.kube.columns import show

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
AT = "2026-01-31T12:00:00Z"
LATER = "2026-01-31T12:05:00Z"
CASE = Case(
    name="gpu-1-1",
    node="gpu-1",
    opened_at=NOW,
    policy="p",
    faults=tuple(
        Fault(slug=slug, target=Target(node="gpu-1", gpu_uuid=gpu), severity=Severity.CRITICAL, since=NOW)
        for slug, gpu in (("gpu-fell-off-bus", "GPU-2"), ("gpu-fell-off-bus", "GPU-1"), ("node-not-ready", None))
    ),
)
REFUSALS = [
    {"guard": "workload", "reason": "protected-pod", "message": "m", "blockers": ["ml/a", "ml/b"]},
    {"guard": "permission", "reason": "mode-observe", "message": "policy p only observes"},
]


def said(verdict: dict[str, Any], at: str = AT) -> dict[str, Any]:
    """A decision record's part that is shown."""
    words = {"act": "acting", "wait": "waiting", "hold": "held", "escalate": "escalated", "done": "closing"}
    return {"at": at, "state": words[verdict["verdict"]], "verdict": verdict}


@pytest.mark.parametrize(
    ("verdict", "state", "step", "following", "blocked"),
    [
        ({"verdict": "act", "step": "taint", "reason": "taint-due"}, "acting", "taint", "taint-due", None),
        (
            {"verdict": "wait", "step": "reboot", "reason": "rebooting", "until": LATER},
            "waiting",
            "reboot",
            f"rebooting until {LATER}",
            None,
        ),
        (
            {"verdict": "hold", "step": "drain", "reason": "protected-pod", "refusals": REFUSALS},
            "held",
            "drain",
            "protected-pod",
            "protected-pod: ml/a, ml/b; mode-observe: policy p only observes",
        ),
        (
            {"verdict": "escalate", "reason": "drain-deadline"},
            "escalated",
            None,
            "manual intervention: drain-deadline",
            None,
        ),
    ],
)
def test_each_verdict_has_its_words(
    verdict: dict[str, Any], state: str, step: str | None, following: str, blocked: str | None
) -> None:
    """State, step, what is next and who blocks are told for every kind of verdict."""
    shown = show(CASE, said(verdict), {})
    assert (shown["state"], shown.get("step"), shown["next"], shown.get("blockedBy")) == (
        state,
        step,
        following,
        blocked,
    )
    assert shown["target"] == "gpu-1/GPU-1,GPU-2"
    assert shown["fault"] == "gpu-fell-off-bus,node-not-ready"
    assert shown["since"] == AT


def test_since_moves_only_with_what_is_shown() -> None:
    """The same verdict later keeps `since`; another one moves it; a save without a decision keeps everything."""
    verdict = {"verdict": "act", "step": "taint", "reason": "taint-due"}
    first = show(CASE, said(verdict), {})
    assert show(CASE, said(verdict, LATER), first) == first
    assert show(CASE, None, first) == first
    assert show(CASE, said({**verdict, "step": "cordon"}, LATER), first)["since"] == LATER


def test_a_closed_case_shows_its_result_and_nothing_that_is_next() -> None:
    """The result is the state; step, next and blockers are gone."""
    before = show(CASE, said({"verdict": "hold", "step": "x", "reason": "r", "refusals": REFUSALS}), {})
    closed = replace(CASE, closed_at=NOW, result=Result.RESTORED)
    shown = show(closed, said({"verdict": "done", "reason": "restored", "result": "restored"}, LATER), before)
    assert shown["state"] == "restored"
    assert not {"step", "next", "blockedBy"} & set(shown)


def test_no_text_is_longer_than_the_schema_allows() -> None:
    """A hundred blockers are cut to what the API server takes."""
    many = [{"guard": "g", "reason": f"r-{i}", "message": "m" * 50} for i in range(100)]
    shown = show(CASE, said({"verdict": "hold", "step": "x", "reason": "r", "refusals": many}), {})
    assert len(shown["blockedBy"]) == 1024
