"""Providers: how a machine is rebooted. A new one is a file with its `KIND`, a line in PROVIDERS, and a test.

Settings, `gpuheal check`, the roles in deploy/kustomize and the running responder all read this registry.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gpuheal_responder.core.node import Node
from gpuheal_responder.core.reason import Reason
from gpuheal_responder.core.world import OperationState
from gpuheal_responder.errors import Permanent
from gpuheal_responder.providers import job
from gpuheal_responder.providers.provider import Kind, Provider, Tools

PROVIDERS: Mapping[str, Kind[Any]] = {kind.name: kind for kind in (job.KIND,)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Providers:
    """The port Machines by name of provider; an empty name means `default`.

    A provider is identified by its name and the place where it keeps its operations, as `job/gpuheal-privileged`.
    """

    default: str
    by_name: Mapping[str, Provider]
    places: Mapping[str, str] = field(default_factory=dict)

    def providers(self) -> Mapping[str, str]:
        """Return the identity of each configured provider by its name, and of the default by the empty one."""
        known = {name: self._identity(name) for name in self.by_name}
        return known | ({"": known[self.default]} if self.default in known else {})

    def _identity(self, name: str) -> str:
        place = self.places.get(name, "")
        return f"{name}/{place}" if place else name

    async def reboot(self, node: Node, operation: str, provider: str) -> None:
        """Ask the named provider; Permanent `unknown-provider` when the site has configured none of this name."""
        await self._named(provider).reboot(node, operation)

    async def lookup(self, node: Node | None, operation: str, provider: str) -> OperationState:
        """Return what the named provider knows; of one that is not configured nobody can tell."""
        if self._found(provider) is None:
            return OperationState.UNKNOWABLE
        return await self._named(provider).lookup(node, operation)

    async def withdraw(self, node: Node | None, operation: str, provider: str) -> None:
        """Have the named provider forget an operation; Permanent `unknown-provider` as for `reboot`."""
        await self._named(provider).withdraw(node, operation)

    def _named(self, provider: str) -> Provider:
        found = self._found(provider)
        if found is None:
            known = ", ".join(sorted(map(self._identity, self.by_name))) or "none"
            asked = provider or self.default
            raise Permanent(Reason.UNKNOWN_PROVIDER, f"provider {asked!r} is not configured; configured: {known}")
        return found

    def _found(self, provider: str) -> Provider | None:
        name, _, place = (provider or self.default).partition("/")
        return self.by_name.get(name) if place in {"", self.places.get(name, "")} else None


def configured(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the providers that these settings, by name, make usable; one without any is not."""
    return tuple(name for name, kind in PROVIDERS.items() if name in settings and kind.configured(settings[name]))


def made(default: str, settings: Mapping[str, Any], tools: Tools) -> Providers:
    """Return all usable providers."""
    named = {name: PROVIDERS[name].make(settings[name], tools) for name in configured(settings)}
    places = {name: PROVIDERS[name].place(settings[name]) for name in named}
    return Providers(default=default, by_name=named, places=places)
