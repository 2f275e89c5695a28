"""The board: what decisions of one round count against each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from gpuheal_responder.core import life
from gpuheal_responder.core.alert import Fault
from gpuheal_responder.core.budget import Ledger
from gpuheal_responder.core.case import Case
from gpuheal_responder.core.fleet import KEYS, Incidents, incidents_of
from gpuheal_responder.core.policy import Policy
from gpuheal_responder.core.world import World
from gpuheal_responder.shell.process.slices import sliced
from gpuheal_responder.shell.round.observe import Details, Look, absent_standing, history_of, standing_of, world_of


@dataclass(slots=True, kw_only=True)
class Board:
    """What decisions of one round count against each other: budgets, gangs that lose a member, incidents."""

    ledger: Ledger
    gangs: dict[str, tuple[str, ...]]
    incidents: Incidents

    def world(self, look: Look, node: str, policy: Policy | None, seen: Details | None = None) -> World:
        """Return the world of one node; gangs of its own case do not stand in its way."""
        others = sorted({g for name, held in self.gangs.items() if name != node for g in held})
        seen = seen or Details()
        return world_of(look, node, policy, domains=self.ledger, seen=seen, gangs=others, incidents=self.incidents)


async def board_of(look: Look, keys: Mapping[str, Sequence[str]], policies: Sequence[Policy]) -> Board:
    """Return the board of this look, before anything is decided."""
    held = {name: stored.case for name, stored in look.open.items()}
    ledger = Ledger(())
    async for name, node in sliced(look.nodes.items()):
        faults, history = look.intake.faults.get(name, ()), history_of(look, name)
        ledger.put(standing_of(node, held.get(name), faults, look.now, keys, history))
    for name, case in held.items():
        if name not in look.nodes and case.domains:
            ledger.put(absent_standing(case))
    known = {name: _domains(look, ledger, name) for name in look.intake.faults}
    faults_of = {name: _begun(many, held.get(name)) for name, many in look.intake.faults.items()}
    for name, case in held.items():  # an incident ends with its cases, not when an exporter falls silent
        if name in look.nodes:
            faults_of[name] = [*faults_of.get(name, ()), *case.faults]
            known.setdefault(name, _domains(look, ledger, name))
    controls = look.controls

    def treated(name: str, fault: Fault) -> bool:
        return any(policy.matches(fault, look.nodes[name]) for policy in policies)

    incidents = incidents_of(
        faults_of, look.intake.wide, known, ledger.size, controls.released, controls.released_at, treated
    )
    gangs = {name: case.gangs for name, case in held.items() if life.disrupting(case)}
    return Board(ledger=ledger, gangs=gangs, incidents=incidents)


def _domains(look: Look, ledger: Ledger, name: str) -> dict[str, str]:
    """Return the node's failure domains, those without a budget included."""
    labels = look.nodes[name].labels if name in look.nodes else {}
    more = {k: labels[key] for k, candidates in KEYS.items() for key in candidates[::-1] if labels.get(key)}
    return {**ledger.domains_of(name), **more}


def _begun(faults: Sequence[Fault], case: Case | None) -> Sequence[Fault]:
    """Return the faults as of when they really began: when its case first knew of one.

    A restarted Prometheus gives every alert a new beginning, and old faults of many nodes would look like a burst.
    """
    known = {(f.slug, f.target): f.since for f in case.faults} if case is not None else {}
    return [replace(f, since=min(f.since, known.get((f.slug, f.target), f.since))) for f in faults]
