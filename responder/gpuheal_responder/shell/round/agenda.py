"""The agenda: which cases a round decides about. Open ones, marks without a stored case, and faults without a case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from gpuheal_responder.core.case import Case
from gpuheal_responder.core.node import Node, UndoRecord, Unreadable
from gpuheal_responder.core.opening import Ignore, Open, case_from_undo, opening
from gpuheal_responder.core.policy import Policy, answering
from gpuheal_responder.core.reason import Reason
from gpuheal_responder.ports import Stored
from gpuheal_responder.shell.process.slices import sliced
from gpuheal_responder.shell.round.board import Board
from gpuheal_responder.shell.round.observe import Look


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A case to decide about: its policy (None: it does not exist any more), and how it is stored, if it is.

    `marked` says that the node's undo record tells of it.
    """

    node: str
    case: Case
    policy: Policy | None
    stored: Stored | None
    marked: bool = False


@dataclass(slots=True, kw_only=True)
class Agenda:
    """What a round decides about, oldest case first, and what it does not."""

    subjects: list[Subject] = field(default_factory=list)
    ignored: list[Ignore] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    """Nodes whose undo record cannot be read."""


async def agenda(look: Look, board: Board, policies: Sequence[Policy], owner: str) -> Agenda:
    """Return the agenda of this look."""
    by_name = {p.name: p for p in policies}
    found = Agenda()
    async for name, stored in sliced(look.open.items()):
        case = _reconsidered(look, board, stored.case, policies)
        _others(look, case, policies, found)
        found.subjects.append(Subject(node=name, case=case, policy=by_name.get(case.policy), stored=stored))
    async for name, node in sliced(look.nodes.items()):
        if isinstance(node.undo, Unreadable):
            found.unreadable.append(name)
        if name in look.open:
            continue
        if isinstance(node.undo, UndoRecord) and node.undo.owner == owner:
            found.subjects.append(_from_marks(look, board, node, node.undo, by_name))
        elif name in look.unreadable:
            problem = f"cannot read its Remediation: {look.unreadable[name]}"
            faults = look.intake.faults.get(name, ())
            found.ignored.append(Ignore(node=name, reason=Reason.CASE_UNREADABLE, message=problem, faults=faults))
        elif name in look.intake.faults:
            _open_or_ignore(look, board, node, policies, found)
    found.subjects.sort(key=lambda s: (s.case.opened_at, s.node))
    return found


def _reconsidered(look: Look, board: Board, case: Case, policies: Sequence[Policy]) -> Case:
    """Return the case under the policy that would act on its node now, as long as nothing has been done for it.

    Else a fault that is observed, silenced or not confirmed would keep a later one from the policy that would act.
    """
    node = look.nodes.get(case.node)
    if node is None or node.undo is not None or case.attempts:
        return case
    found = _opening(look, board, node, policies)
    if not isinstance(found, Open) or found.policy.name == case.policy:
        return case
    return replace(case, policy=found.policy.name, faults=found.case.faults)


def _others(look: Look, case: Case, policies: Sequence[Policy], into: Agenda) -> None:
    """Say which faults of the node wait because its case is under a policy that does not cover them."""
    node = look.nodes.get(case.node)
    if node is None:
        return
    current = next((p for p in policies if p.name == case.policy), None)
    for name, own in answering(policies, look.intake.faults.get(case.node, ()), node).items():
        many = [f for f in own if current is not None and not current.matches(f, node)]
        if many:
            message = f"case {case.name} is open under policy {case.policy}; policy {name} follows when it is closed"
            into.ignored.append(Ignore(node=case.node, reason=Reason.OTHER_CASE, message=message, faults=tuple(many)))


def _from_marks(look: Look, board: Board, node: Node, record: UndoRecord, policies: Mapping[str, Policy]) -> Subject:
    """Return the case that a node's undo record belongs to: stored but closed too early, or never stored."""
    kept = next((s for s in look.closed if s.case.name == record.case), None)
    if kept is not None:
        case = replace(kept.case, closed_at=None, settled_at=None, result=None)
    else:
        case = replace(
            case_from_undo(node, record, board.world(look, node.name, None)),
            domains=dict(board.ledger.domains_of(node.name)),
        )
    return Subject(node=node.name, case=case, policy=policies.get(case.policy), stored=kept, marked=True)


def _open_or_ignore(look: Look, board: Board, node: Node, policies: Sequence[Policy], into: Agenda) -> None:
    found = _opening(look, board, node, policies)
    match found:
        case Open():
            into.subjects.append(Subject(node=node.name, case=found.case, policy=found.policy, stored=None))
        case Ignore():
            into.ignored.append(found)


def _opening(look: Look, board: Board, node: Node, policies: Sequence[Policy]) -> Open | Ignore:
    return opening(
        board.world(look, node.name, None),
        policies,
        board.ledger.domains_of(node.name),
        lambda policy: board.world(look, node.name, policy),
    )
