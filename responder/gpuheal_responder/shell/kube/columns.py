"""What people see of a case in `kubectl get remediations`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gpuheal_responder.core.case import Case

SHOWN = ("target", "fault", "state", "step", "next", "blockedBy", "since")
MAX_TEXT = 1024


def show(case: Case, decision: Mapping[str, Any] | None, before: Mapping[str, str]) -> dict[str, str]:
    """Return what `kubectl get remediations` shows; `since` is when anything of it last changed."""
    verdict: Mapping[str, Any] = decision["verdict"] if decision is not None else {}
    found = {
        "target": _target(case),
        "fault": ",".join(dict.fromkeys(f.slug for f in case.faults)),
        "state": _state(case, decision or {}) or before.get("state", "open"),
    }
    if decision is None and case.closed_at is None:
        found |= {key: before[key] for key in ("step", "next", "blockedBy") if key in before}
    elif case.closed_at is None:
        found |= {"step": str(verdict.get("step", "")), "next": _next(verdict), "blockedBy": _blockers(verdict)}
    found = {key: value[:MAX_TEXT] for key, value in found.items() if value}
    same = found == {key: value for key, value in before.items() if key != "since"}
    at = str(decision["at"]) if decision is not None else before.get("since", "")
    since = before.get("since", at) if same else at
    return {**found, "since": since} if since else found


def _target(case: Case) -> str:
    gpus = sorted({f.target.gpu_uuid for f in case.faults if f.target.gpu_uuid})
    return f"{case.node}/{','.join(gpus)}" if gpus else case.node


def _state(case: Case, decision: Mapping[str, Any]) -> str:
    if case.closed_at is not None:
        return case.result.value if case.result is not None else "closed"
    return str(decision.get("state", "")) or ("escalated" if case.escalated else "")


def _next(verdict: Mapping[str, Any]) -> str:
    match verdict.get("verdict"):
        case "wait":
            return f"{verdict['reason']} until {verdict['until']}"
        case "escalate":
            return f"manual intervention: {verdict['reason']}"
        case None:
            return ""
        case _:
            return str(verdict["reason"])


def _blockers(verdict: Mapping[str, Any]) -> str:
    refusals: Sequence[Mapping[str, Any]] = verdict.get("refusals") or ()
    return "; ".join(
        dict.fromkeys(f"{r['reason']}: {', '.join(r.get('blockers') or [r['message']])}" for r in refusals)
    )
