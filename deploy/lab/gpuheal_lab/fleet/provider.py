"""Who reboots simulated machines, and what people have decided: the ports Machines and ControlSource."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gpuheal_lab.fleet.injection import Gate
from gpuheal_lab.fleet.machine import Machine
from gpuheal_responder.core.node import Node
from gpuheal_responder.core.world import Controls, OperationState
from gpuheal_responder.errors import Permanent


@dataclass(slots=True)
class SimulatedMachines:
    """The port Machines: several providers that reboot the simulated metal, `default` where a call names none.

    Each knows only what it was asked itself. The flags make them behave badly.
    """

    machines: Mapping[str, Machine]
    gate: Gate
    default: str = "lab"
    names: tuple[str, ...] = ("lab", "job")
    operations: dict[str, OperationState] = field(default_factory=dict)
    reboots: list[tuple[str, str]] = field(default_factory=list)
    refuses: bool = False
    loses_calls: bool = False
    forgets: bool = False
    waits: bool = False
    """What is asked for happens only at `carry_out`, as with a Job whose pod has not started yet."""
    _waiting: dict[str, Machine] = field(default_factory=dict)
    _asked: dict[str, set[str]] = field(default_factory=dict)

    def providers(self) -> Mapping[str, str]:
        """Who can be asked."""
        return {name: name for name in self.names} | ({"": self.default} if self.default in self.names else {})

    def _named(self, provider: str) -> str:
        name = provider or self.default
        if name not in self.names:
            raise Permanent("unknown-provider", f"provider {name!r} is not configured")
        return name

    async def reboot(self, node: Node, operation: str, provider: str) -> None:
        """The machine reboots, once per provider and operation id."""

        def effect() -> None:
            named = self._named(provider)
            if named in self._asked.get(operation, ()) or self.loses_calls:
                return
            self._asked.setdefault(operation, set()).add(named)
            if self.refuses:
                self.operations[operation] = OperationState.FAILED
                return
            machine = self.machines.get(node.name)
            if machine is None or machine.spec.system_uuid != node.system_uuid:
                raise Permanent("not-found", f"no machine {node.system_uuid} is called {node.name}")
            self.operations[operation] = OperationState.ACCEPTED
            self._waiting[operation] = machine
            if not self.waits:
                self.carry_out(operation)

        await self.gate.cross("reboot", node.name, effect, detail=f"{provider or self.default} {operation}")

    def carry_out(self, operation: str) -> bool:
        """The machine reboots now if the operation still stands; whether it does."""
        machine = self._waiting.pop(operation, None)
        if machine is not None:
            self.reboots.append((machine.spec.name, operation))
            machine.reboot()
        return machine is not None

    async def withdraw(self, node: Node | None, operation: str, provider: str) -> None:
        """What has not happened yet under this id never will: the id is as if it had never been asked for."""

        def effect() -> None:
            if self._named(provider) not in self._asked.get(operation, ()):
                return
            if self._waiting.pop(operation, None) is not None:
                del self.operations[operation], self._asked[operation]

        where = node.name if node is not None else ""
        await self.gate.cross("withdraw", where, effect, detail=f"{provider} {operation}")

    async def lookup(self, node: Node | None, operation: str, provider: str) -> OperationState:
        """What became of the operation."""

        def effect() -> OperationState:
            if self.forgets or (provider or self.default) not in self.names:
                return OperationState.UNKNOWABLE
            if self._named(provider) not in self._asked.get(operation, ()):
                return OperationState.NOT_FOUND
            return self.operations.get(operation, OperationState.NOT_FOUND)

        return await self.gate.cross("lookup", node.name if node is not None else "", effect, detail=provider)


@dataclass(slots=True)
class SimulatedControls:
    """The port ControlSource: what `current` says."""

    gate: Gate
    current: Controls = field(default_factory=Controls)

    async def controls(self) -> Controls:
        """The controls in force."""
        return await self.gate.cross("controls", "", lambda: self.current)
