"""Providers: how a machine is rebooted. A new one is a file with its `KIND`, a line in PROVIDERS, and a test.

Settings, `gpuheal check`, the roles in deploy/kustomize and the running responder all read this registry.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gpuheal_responder.core.node import Node
from gpuheal_responder.core.world import OperationState
from gpuheal_responder.errors import Permanent
from gpuheal_responder.providers import job
from gpuheal_responder.providers.provider import Kind, Provider, Tools

PROVIDERS: Mapping[str, Kind[Any]] = {kind.name: kind for kind in (job.KIND,)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Providers:
    """The port Machines by name of provider; an empty name means `default`."""

    default: str
    by_name: Mapping[str, Provider]

    async def reboot(self, node: Node, operation: str, provider: str) -> None:
        """Ask the named provider; Permanent `unknown-provider` when the site has configured none of this name."""
        await self._named(provider).reboot(node, operation)

    async def lookup(self, node: Node | None, operation: str, provider: str) -> OperationState:
        """Return what the named provider knows; one that is not configured knows nothing."""
        if (provider or self.default) not in self.by_name:
            return OperationState.UNKNOWABLE
        return await self._named(provider).lookup(node, operation)

    async def withdraw(self, node: Node | None, operation: str, provider: str) -> None:
        """Have the named provider forget an operation; Permanent `unknown-provider` as for `reboot`."""
        await self._named(provider).withdraw(node, operation)

    def _named(self, provider: str) -> Provider:
        name = provider or self.default
        if name not in self.by_name:
            known = ", ".join(sorted(self.by_name)) or "none"
            raise Permanent("unknown-provider", f"provider {name!r} is not configured; configured: {known}")
        return self.by_name[name]


def configured(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the providers that these settings, by name, make usable."""
    return tuple(name for name, kind in PROVIDERS.items() if kind.configured(settings[name]))


def made(default: str, settings: Mapping[str, Any], tools: Tools) -> Providers:
    """Return all usable providers."""
    named = {name: PROVIDERS[name].make(settings[name], tools) for name in configured(settings)}
    return Providers(default=default, by_name=named)
