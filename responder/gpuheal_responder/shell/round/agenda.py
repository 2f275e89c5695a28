"""The agenda: which cases a round decides about. Open ones, marks without a stored case, and faults without a case."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gpuheal_responder.core import evidence as ev
from gpuheal_responder.core.case import Case
from gpuheal_responder.core.node import Node
from gpuheal_responder.core.opening import case_from_undo, open_case
from gpuheal_responder.core.policy import Policy, match
from gpuheal_responder.ports import Stored
from gpuheal_responder.shell.process.slices import sliced
from gpuheal_responder.shell.round.observe import Look, faults_for, taken_at, watermark_of

Subject = tuple[str, Case, Policy | None, Stored | None]
"""Node name, case, the policy it is under (None: it does not exist any more), and how the case is stored, if it is."""


async def subjects(look: Look, policies: Sequence[Policy], owner: str) -> list[Subject]:
    """Return what to decide about, oldest case first."""
    by_name = {p.name: p for p in policies}
    found: list[Subject] = []
    async for name, stored in sliced(look.open.items()):
        case = _reconsidered(look, stored.case, policies)
        found.append((name, case, by_name.get(case.policy), stored))
    async for name, node in sliced(look.nodes.items()):
        if name in look.open:
            continue
        if node.undo is not None and node.undo.owner == owner:
            case, kept = _from_marks(look, node)
            found.append((name, case, by_name.get(case.policy), kept))
        elif name in look.intake.faults:
            opened = _opened(look, node, policies)
            if opened is not None:
                found.append(opened)
    return sorted(found, key=lambda s: (s[1].opened_at, s[0]))


def _reconsidered(look: Look, case: Case, policies: Sequence[Policy]) -> Case:
    """Return the case under the policy that answers for its node now, as long as nothing has been done for it.

    Else an observed fault would keep a later one from the policy that would act on it.
    """
    node = look.nodes.get(case.node)
    if node is None or node.undo is not None or case.attempts:
        return case
    policy = match(policies, look.intake.faults.get(case.node, ()), node)
    return case if policy is None else replace(case, policy=policy.name)


def _from_marks(look: Look, node: Node) -> tuple[Case, Stored | None]:
    """Return the case that a node's undo record belongs to: stored but closed too early, or never stored."""
    assert node.undo is not None
    kept = next((s for s in look.closed if s.case.name == node.undo.case), None)
    case = kept.case if kept is not None else case_from_undo(node.name, node.undo)
    return replace(case, closed_at=None, result=None), kept


def _opened(look: Look, node: Node, policies: Sequence[Policy]) -> Subject | None:
    """Return a new case for a node's faults, or None when no policy answers or all evidence is settled."""
    policy = match(policies, look.intake.faults[node.name], node)
    if policy is None:
        return None
    faults = faults_for(look, node.name, policy)
    past = look.past.get(node.name, ())
    evidence = (look.evidence or {}).get(node.name)
    watermark = watermark_of(past, node.system_uuid)
    newest = ev.newest(faults, evidence)
    if watermark is not None and (newest is None or newest <= watermark):
        return None
    taken = taken_at(past, node.system_uuid)
    happened = ev.news(faults, evidence)
    if taken is not None and (happened is None or happened <= taken):
        return None
    known = {i.gpu_uuid for i in evidence.identities} if evidence else set()
    number = 1 + max((_number(c.name) for c in past), default=0)
    case = open_case(
        name=f"{node.name}-{number}", node=node, faults=faults, policy=policy, gpus=sorted(known), now=look.now
    )
    return node.name, case, policy, None


def _number(name: str) -> int:
    tail = name.rpartition("-")[2]
    return int(tail) if tail.isdigit() else 0
