"""Verdicts in plain words, for Events that people read with kubectl."""

from __future__ import annotations

from gpuheal_responder.core.alert import named
from gpuheal_responder.core.case import TAKEN, Case
from gpuheal_responder.core.reason import Reason
from gpuheal_responder.core.verdict import Act, Done, Escalate, Hold, Inspect, Verdict, Wait
from gpuheal_responder.ports import Note


def faults_of(case: Case) -> str:
    """Return the case's faults with their GPUs, such as `gpu-fell-off-bus on GPU-1b2c`."""
    return ", ".join(named(case.faults)) or "a fault"


def proof_of(case: Case) -> str:
    """Return the PromQL that shows the evidence of a case's first fault."""
    if not case.faults:
        return f'gpuheal:gpu_state{{node="{case.node}"}}'
    return f'gpuheal:fault_witness:last_seen_seconds{{node="{case.node}",fault="{case.faults[0].slug}"}}'


def note_of(case: Case, verdict: Verdict) -> Note:
    """Return the Event that tells people of a verdict."""
    what = faults_of(case)
    match verdict:
        case Act() | Inspect():
            text = f"{verdict.due.action}: {verdict.reason}. {what}. See {proof_of(case)}"
            return Note(node=case.node, reason=f"GPUHeal{_camel(verdict.due.action)}", message=text)
        case Wait():
            text = f"{verdict.due.action}: {verdict.reason}, {verdict.message}. {what}"
            return Note(node=case.node, reason="GPUHealWaiting", message=text)
        case Hold():
            first = verdict.refusals[0]
            text = f"{_what(verdict)} is held: {first.reason}: {first.message}. {what}"
            return Note(node=case.node, reason="GPUHealHeld", message=text, warning=True)
        case Escalate():
            text = f"manual intervention needed: {verdict.reason}: {verdict.message}. {what}. See {proof_of(case)}"
            return Note(node=case.node, reason="GPUHealEscalated", message=text, warning=True)
        case Done():
            text = f"case {case.name} closed: {verdict.reason}. {what}"
            return Note(node=case.node, reason=f"GPUHeal{_camel(verdict.result.value)}", message=text)


def unsaid(case: Case, verdict: Verdict) -> bool:
    """Return whether people need no Event of the verdict: nothing was done to the node, nor did they do anything to it.

    A person who takes a node back is answered, also where no record of what we did to it is left.
    """
    match verdict:
        case Hold():
            untouched = any(r.reason == Reason.MODE_OBSERVE for r in verdict.refusals)
        case Done():
            untouched = verdict.result not in TAKEN
        case _:
            untouched = False
    return untouched and not case.attempts


def _camel(slug: str) -> str:
    return "".join(part.capitalize() for part in slug.split("-"))


def _what(verdict: Hold) -> str:
    return verdict.due.action if verdict.due is not None else "the case"
