"""Stand-ins for our own ports, in memory: a case store that loses races, people by token, nodes that can be held."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from gpuheal_responder.core.case import Approval, Case
from gpuheal_responder.errors import ObserveError, Permanent, Transient
from gpuheal_responder.ports import Stored, Unreadable
from gpuheal_responder.shell.kube.review import Denial, Permission, Person


@dataclass
class Store:
    """The port Remediations; the next `races` saves find that somebody else wrote first."""

    cases: dict[str, Stored] = field(default_factory=dict)
    races: int = 0
    tokens: list[str] = field(default_factory=list)
    """What was shown with approvals."""

    def put(self, case: Case) -> None:
        """Store a case as if it had always been there."""
        self.cases[case.name] = Stored(case=case, version="1")

    async def list(self) -> Sequence[Stored]:
        """Return all cases."""
        return list(self.cases.values())

    async def create(self, case: Case, decision: Mapping[str, object]) -> Stored:
        """Store a new case."""
        self.put(case)
        return self.cases[case.name]

    async def unreadable(self) -> Sequence[Unreadable]:
        """Return nothing: all of it is ours."""
        return ()

    async def save(self, stored: Stored, decision: Mapping[str, object] | None) -> Stored:
        """Replace a case at its version; its approvals stay."""
        kept = self.cases[stored.case.name].case.approvals
        return self._write(Stored(case=replace(stored.case, approvals=kept), version=stored.version))

    async def approve(self, stored: Stored, approvals: Sequence[Approval], token: str = "") -> Stored:
        """Replace a case's approvals at its version."""
        self.tokens.append(token)
        kept = self.cases[stored.case.name].case
        return self._write(Stored(case=replace(kept, approvals=tuple(approvals)), version=stored.version))

    def _write(self, stored: Stored) -> Stored:
        known = self.cases[stored.case.name]
        if self.races > 0:
            self.races -= 1
            self.cases[stored.case.name] = Stored(case=known.case, version=f"{known.version}+")
            raise Transient("conflict", "somebody wrote first")
        if stored.version != known.version:
            raise Transient("conflict", "an old version")
        self.cases[stored.case.name] = Stored(case=stored.case, version=f"{known.version}+")
        return self.cases[stored.case.name]

    async def delete(self, name: str) -> None:
        """Remove a case."""
        self.cases.pop(name, None)


@dataclass
class Crowd:
    """The protocol People: who each token belongs to, and what they may; `asked` counts the questions."""

    known: dict[str, tuple[str, frozenset[Permission]]] = field(default_factory=dict)
    broken: bool = False
    asked: int = 0

    async def admit(self, token: str, permission: Permission, name: str = "") -> Person | Denial:
        """Return the person, or why not."""
        self.asked += 1
        if self.broken:
            raise ObserveError("kubernetes", "connection refused")
        if token not in self.known:
            return Denial(status=401, message="unknown token")
        person, rights = self.known[token]
        if permission not in rights:
            return Denial(status=403, message=f"{person} may not {permission.verb}")
        return Person(name=person)


@dataclass
class Holds:
    """The protocol Holds: texts by node."""

    nodes: dict[str, str | None] = field(default_factory=dict)

    async def put(self, node: str, text: str | None) -> None:
        """Hold or let go."""
        if node not in self.nodes:
            raise Permanent("not-found", f"no node {node}")
        self.nodes[node] = text
