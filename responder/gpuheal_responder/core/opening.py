"""The first decision: does a fault without a case open one, and if not, why not?

The engine and `gpuheal explain` ask the same function, so what is ignored can be counted, listed and replayed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from gpuheal_responder.core import evidence as ev
from gpuheal_responder.core.alert import Fault, Severity, Target
from gpuheal_responder.core.case import Case
from gpuheal_responder.core.decide import decide
from gpuheal_responder.core.history import KEPT_FOR
from gpuheal_responder.core.life import stamp
from gpuheal_responder.core.node import Node, UndoRecord, Unreadable
from gpuheal_responder.core.policy import Policy, answering
from gpuheal_responder.core.reason import Reason
from gpuheal_responder.core.undo import case_prefix
from gpuheal_responder.core.verdict import Act
from gpuheal_responder.core.world import World


@dataclass(frozen=True, slots=True, kw_only=True)
class Open:
    """A case is opened under this policy."""

    case: Case
    policy: Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Ignore:
    """The faults open no case; `reason` is a slug."""

    node: str
    reason: Reason
    message: str
    faults: tuple[Fault, ...] = ()


def opening(
    world: World,
    policies: Sequence[Policy],
    domains: Mapping[str, str] | None = None,
    world_under: Callable[[Policy], World] | None = None,
) -> Open | Ignore:
    """Return what becomes of the faults of a node that has no case.

    For each fault the first policy, in file order, answers. Of those the first that would act now opens the case, else
    the first that opens one: a fault that is only observed, silenced or not confirmed yet keeps no other one from its
    policy. `world_under` gives the world as one policy sees it.
    """
    node = world.node
    if node is None:
        return _ignore(world, Reason.UNKNOWN_NODE, "the node does not exist")
    if isinstance(node.undo, Unreadable):
        return _ignore(world, Reason.UNDO_UNREADABLE, f"its undo record cannot be read: {node.undo.problem}")
    own = answering(policies, world.faults, node)
    if not own:
        return _ignore(world, Reason.NO_POLICY, "no policy matches these faults on this node")
    found: dict[str, Open | Ignore] = {}
    for policy in (p for p in policies if p.name in own):
        seen = world_under(policy) if world_under is not None and len(own) > 1 else world
        one = _under(seen, node, policy, world.faults, domains or {})
        if len(own) == 1 or (isinstance(one, Open) and _acts(one, replace(seen, faults=own[policy.name]))):
            found = {policy.name: one}
            break
        found[policy.name] = one
    chosen = next((one for one in found.values() if isinstance(one, Open)), next(iter(found.values())))
    return chosen if isinstance(chosen, Open) else replace(chosen, faults=world.faults)


def _acts(found: Open, world: World) -> bool:
    """Return whether the case's policy would do something at once, on the strength of this world's faults alone."""
    return bool(found.policy.steps) and isinstance(decide(found.case, found.policy, world), Act)


def _under(
    world: World, node: Node, policy: Policy, faults: Sequence[Fault], domains: Mapping[str, str]
) -> Open | Ignore:
    """Return what becomes of those of the faults that the policy answers for."""
    world = replace(world, faults=tuple(f for f in faults if policy.matches(f, node)))
    case = open_case(node, world.faults, policy, world, domains)
    return _past(world.faults, world) or Open(case=case, policy=policy)


def _past(faults: Sequence[Fault], world: World) -> Ignore | None:
    """Return why these faults are a matter of the past; None while they are not."""
    history, newest = world.history, ev.newest(faults, world.evidence)
    settled = history.settled_at
    last = newest or max(f.since for f in faults)  # where nobody tells when it was seen, the alert's beginning counts
    if settled is not None and last <= settled:
        when = settled.isoformat(timespec="seconds")
        return _ignore(
            world, Reason.EVIDENCE_SETTLED, f"all evidence predates {when}, when the node was returned to service"
        )
    taken = history.taken_at
    stands = taken is not None and all(ev.stood(f, history) and f.since < taken for f in faults)
    lasts = taken is not None and (stands or world.now - taken < KEPT_FOR)
    if lasts and taken is not None and not ev.news(faults, world.evidence, history):
        when = taken.isoformat(timespec="seconds")
        return _ignore(
            world,
            Reason.TAKEN_BACK,
            f"someone returned the node to service manually at {when}, and nothing new has been seen since",
        )
    return None


def _ignore(world: World, reason: Reason, message: str) -> Ignore:
    name = world.node.name if world.node is not None else next((f.target.node for f in world.faults), "")
    return Ignore(node=name, reason=reason, message=message, faults=world.faults)


def open_case(node: Node, faults: Sequence[Fault], policy: Policy, world: World, domains: Mapping[str, str]) -> Case:
    """Return a new case for the faults of a node; its name holds the moment, so it never comes again."""
    identities = world.evidence.identities if world.evidence is not None else ()
    alerting = {f.target.gpu_uuid for f in faults if f.target.gpu_uuid}
    return Case(
        name=f"{case_prefix(node.name)}-{stamp(world.now)}",
        node=node.name,
        opened_at=world.now,
        policy=policy.name,
        faults=tuple(faults),
        node_uid=node.uid,
        system_uuid=node.system_uuid,
        boot_id=node.boot_id,
        gpus=tuple(sorted(alerting | {i.gpu_uuid for i in identities if not i.gone})),
        gpu_slots={i.gpu_uuid: i.slot for i in identities if i.slot},
        gpu_capacity=node.gpu_capacity,
        domains=dict(domains),
    )


def case_from_undo(node: Node, record: UndoRecord, world: World) -> Case:
    """Return the case that a node's undo record tells of, for when its Remediation was never written, or was deleted.

    A case that had been given to people stays with them: deleting its object is no answer.
    """
    escalated = world.history.escalated
    return Case(
        name=record.case,
        node=node.name,
        opened_at=record.at,
        policy=record.policy,
        faults=tuple(
            Fault(slug=slug, target=Target(node=node.name), severity=Severity.CRITICAL, since=record.at)
            for slug in record.faults
        ),
        node_uid=record.node_uid,
        system_uuid=record.system_uuid,
        boot_id=record.boot_id,
        gpus=record.gpus,
        gpu_capacity=node.gpu_capacity,
        escalated=escalated.reason if escalated is not None and escalated.case == record.case else "",
    )
