"""Providers: how a machine is rebooted. A new one is a file, an entry where the app is built, and a test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gpuheal_responder.core.node import Node
from gpuheal_responder.core.world import OperationState
from gpuheal_responder.errors import Permanent
from gpuheal_responder.ports import Machines


@dataclass(frozen=True, slots=True, kw_only=True)
class Providers:
    """The port Machines by name of provider; an empty name means `default`."""

    default: str
    by_name: Mapping[str, Machines]

    async def reboot(self, node: Node, operation: str, provider: str) -> None:
        """Ask the named provider; Permanent `unknown-provider` when the site has configured none of this name."""
        name = provider or self.default
        await self._named(name).reboot(node, operation, name)

    async def lookup(self, node: Node, operation: str, provider: str) -> OperationState:
        """Return what the named provider knows; one that is not configured knows nothing."""
        name = provider or self.default
        if name not in self.by_name:
            return OperationState.UNKNOWABLE
        return await self._named(name).lookup(node, operation, name)

    def _named(self, name: str) -> Machines:
        if name not in self.by_name:
            known = ", ".join(sorted(self.by_name)) or "none"
            raise Permanent("unknown-provider", f"provider {name!r} is not configured; configured: {known}")
        return self.by_name[name]
