"""The first decision: does a fault without a case open one, and if not, why not?

The engine and `gpuheal explain` ask the same function, so what is ignored can be counted, listed and replayed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from gpuheal_responder.core import evidence as ev
from gpuheal_responder.core.alert import Fault, Severity, Target
from gpuheal_responder.core.case import Case
from gpuheal_responder.core.history import KEPT_FOR
from gpuheal_responder.core.life import stamp
from gpuheal_responder.core.node import Node, UndoRecord, Unreadable
from gpuheal_responder.core.policy import Policy
from gpuheal_responder.core.reason import Reason
from gpuheal_responder.core.world import World

LONGEST_NODE = 240
"""Of a node's name so much goes into a case's name, which may have 253 characters (RFC 1123 subdomain)."""


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


def opening(world: World, policies: Sequence[Policy], domains: Mapping[str, str] | None = None) -> Open | Ignore:
    """Return what becomes of the faults of a node that has no case."""
    node = world.node
    if node is None:
        return _ignore(world, Reason.UNKNOWN_NODE, "the node does not exist")
    if isinstance(node.undo, Unreadable):
        return _ignore(world, Reason.UNDO_UNREADABLE, f"its undo record cannot be read: {node.undo.problem}")
    policy = answering(world, node, policies)
    if isinstance(policy, Ignore):
        return policy
    faults = tuple(f for f in world.faults if policy.matches(f, node))
    case = open_case(node, faults, policy, replace(world, faults=faults), domains or {})
    return Open(case=case, policy=policy)


def answering(world: World, node: Node, policies: Sequence[Policy]) -> Policy | Ignore:
    """Return the first policy whose faults on this node are still to be dealt with, else why nothing is.

    A fault that is settled, or that a person has taken the node back with, does not keep another one from its policy.
    """
    past: Ignore | None = None
    for policy in policies:
        faults = [f for f in world.faults if policy.matches(f, node)]
        why = _past(faults, world) if faults else None
        if faults and why is None:
            return policy
        past = past or why
    return past or _ignore(world, Reason.NO_POLICY, "no policy matches these faults on this node")


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
    lasts = history.taken_at is not None and world.now - history.taken_at < KEPT_FOR
    if lasts and history.taken_at is not None and not ev.news(faults, world.evidence, history):
        when = history.taken_at.isoformat(timespec="seconds")
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
        name=f"{node.name[:LONGEST_NODE].rstrip('-.')}-{stamp(world.now)}",
        node=node.name,
        opened_at=world.now,
        policy=policy.name,
        faults=tuple(faults),
        node_uid=node.uid,
        system_uuid=node.system_uuid,
        boot_id=node.boot_id,
        gpus=tuple(sorted(alerting | {i.gpu_uuid for i in identities})),
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
