"""What a provider is: a protocol, and the entry that makes one from a site's settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from gpuheal_responder.core.node import Node
from gpuheal_responder.core.world import OperationState
from gpuheal_responder.ports import Clock
from gpuheal_responder.rights import Right

S = TypeVar("S")


class Provider(Protocol):
    """One way to reboot machines. Errors are those of the ports; every call may be made again."""

    async def reboot(self, node: Node, operation: str) -> None:
        """Ask for a reboot under this operation id; asking again with the same id does nothing more."""
        ...

    async def lookup(self, node: Node | None, operation: str) -> OperationState:
        """Return what became of an operation id; the node may not exist any more."""
        ...

    async def withdraw(self, node: Node | None, operation: str) -> None:
        """Make sure that what has not happened yet under this id never will; no error if there is nothing to stop."""
        ...


class Jobs(Protocol):
    """Where Jobs are kept; errors are those of the ports."""

    async def create(self, manifest: Mapping[str, Any]) -> bool:
        """Create the Job; False if one of this name exists already."""
        ...

    async def get(self, namespace: str, name: str) -> Mapping[str, Any] | None:
        """Return the Job, or None."""
        ...

    async def delete(self, namespace: str, name: str) -> None:
        """Remove the Job and its pods; no error if it is gone."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What the shell lends to providers."""

    jobs: Jobs
    clock: Clock


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind(Generic[S]):
    """An entry of the registry: the provider's name, and what follows from its part of the settings.

    `settings` is a dataclass with a default for every field; `hint` tells a site what makes the provider usable.
    `place` says where it keeps its operations: asked at another place, it knows nothing of them.
    """

    name: str
    settings: type[S]
    hint: str
    configured: Callable[[S], bool]
    make: Callable[[S, Tools], Provider]
    rights: Callable[[S], tuple[Right, ...]]
    place: Callable[[S], str] = lambda _: ""
