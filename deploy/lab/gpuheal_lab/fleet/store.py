"""What the simulated cluster keeps for the responder: cases and histories, through the codecs of the real objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from gpuheal_lab.fleet.apiserver import ApiServer
from gpuheal_lab.fleet.injection import Gate
from gpuheal_lab.fleet.objects import Json, canonical, copied
from gpuheal_responder.core.case import Approval, Case
from gpuheal_responder.core.history import History
from gpuheal_responder.errors import Permanent, Transient
from gpuheal_responder.ports import Stored, Unreadable
from gpuheal_responder.shell import record


class SimulatedRemediations:
    """The port Remediations: cases kept as the plain data that a Remediation object would hold.

    `broken` makes objects unreadable, and `unread` parts of them, as those of another version would be.
    """

    def __init__(self, api: ApiServer, gate: Gate) -> None:
        self._api = api
        self._gate = gate
        self.stored: dict[str, tuple[str, bytes]] = {}
        self.decisions: dict[str, list[Mapping[str, object]]] = {}
        self.broken: dict[str, Unreadable] = {}
        self.unread: dict[str, tuple[str, ...]] = {}
        self._raw: dict[str, Json] = {}
        self._frozen: dict[str, Stored] | None = None

    async def list(self) -> Sequence[Stored]:
        """All cases."""
        return await self._gate.cross("list", "", self._listed)

    def freeze_cache(self) -> None:
        """`list` keeps telling what is stored now and what its own writes made of it, as a watch that hangs."""
        self._frozen = {name: self._load(name) for name in self.stored}

    def thaw_cache(self) -> None:
        """`list` tells the truth again."""
        self._frozen = None

    def _listed(self) -> Sequence[Stored]:
        told = {name: self._load(name) for name in self.stored} if self._frozen is None else self._frozen
        return [stored for name, stored in told.items() if name not in self.broken]

    async def unreadable(self) -> Sequence[Unreadable]:
        """What is no case to this version."""
        return tuple(self.broken.values())

    def cases(self) -> Sequence[Case]:
        """All cases as they stand in the store, by name."""
        return [self._load(name).case for name in sorted(self.stored)]

    async def create(self, case: Case, decision: Mapping[str, object]) -> Stored:
        """The new case as stored."""

        def effect() -> Stored:
            if case.name in self.stored:
                raise Transient("conflict", f'remediations.gpu.health "{case.name}" already exists')
            self.decisions.setdefault(case.name, []).append(copied(dict(decision)))
            return self._put(replace(case, approvals=()))

        return await self._gate.cross("create", case.name, effect)

    async def save(self, stored: Stored, decision: Mapping[str, object] | None) -> Stored:
        """The case as stored, in place of the version named; its approvals stay."""

        def effect() -> Stored:
            name = stored.case.name
            before = self._at(stored)
            if decision is not None:
                self.decisions.setdefault(name, []).append(copied(dict(decision)))
            return self._put(replace(stored.case, approvals=before.approvals))

        return await self._gate.cross("save", stored.case.name, effect)

    async def approve(self, stored: Stored, approvals: Sequence[Approval], token: str = "") -> Stored:
        """The case with these approvals, in place of the version named; all else stays."""
        del token

        def effect() -> Stored:
            return self._put(replace(self._at(stored), approvals=tuple(approvals)))

        return await self._gate.cross("approve", stored.case.name, effect)

    async def delete(self, name: str) -> None:
        """The case is gone."""

        def effect() -> None:
            self.stored.pop(name, None)
            self._raw.pop(name, None)
            if self._frozen is not None:
                self._frozen.pop(name, None)

        await self._gate.cross("delete", name, effect)

    def _at(self, stored: Stored) -> Case:
        """The case as it stands, if its version is the one named."""
        name = stored.case.name
        if name not in self.stored:
            raise Permanent("not-found", f'remediations.gpu.health "{name}" not found')
        if self.stored[name][0] != stored.version:
            raise Transient("conflict", f'remediations.gpu.health "{name}" has been modified')
        return self._load(name).case

    def _put(self, case: Case) -> Stored:
        data = record.dump_case(case)
        version = self._api.next_version()
        self.stored[case.name] = (version, canonical(data))
        self._raw[case.name] = data
        stored = self._load(case.name)
        if self._frozen is not None:
            self._frozen[case.name] = stored
        return stored

    def _load(self, name: str) -> Stored:
        case, version = record.load_case(self._raw[name]), self.stored[name][0]
        return Stored(case=case, version=version, unread=self.unread.get(name, ()))


@dataclass(slots=True)
class SimulatedHistories:
    """The port Histories: what was saved, as plain data."""

    gate: Gate
    kept: dict[str, Json] = field(default_factory=dict)

    async def all(self) -> Mapping[str, History]:
        """Every machine's history."""

        def effect() -> Mapping[str, History]:
            return {machine: record.load_history(data) for machine, data in self.kept.items()}

        return await self.gate.cross("histories", "", effect)

    async def save(self, history: History) -> None:
        """The machine's history is this one, unless what was there cannot be read."""

        def effect() -> None:
            if history.unreadable:
                return
            self.kept[history.machine] = record.dump_history(history)

        await self.gate.cross("remember", history.machine, effect)
