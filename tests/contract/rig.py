"""What the suite of the ports' contract stands on: an implementation, and hands to move the world behind it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, Protocol

from gpuheal_responder.ports import Cluster, Machines, Remediations

Json = dict[str, Any]


class Rig(Protocol):
    """An implementation of the ports, and hands to move the world behind it."""

    cluster: Cluster
    remediations: Remediations
    machines: Machines
    nodes: tuple[str, str]
    """Two Ready nodes of 8 GPUs, nothing running on them."""

    async def raw(self, node: str) -> Json:
        """The raw Node."""
        ...

    async def delete_node(self, node: str) -> None:
        """The Node object is deleted."""
        ...

    async def label(self, node: str, key: str, value: str) -> None:
        """A person sets a label."""
        ...

    async def taint(self, node: str, key: str) -> None:
        """A person adds a taint, in front of all others."""
        ...

    async def deployment(self, name: str, node: str, replicas: int, gpus: int) -> None:
        """A Deployment runs on the node."""
        ...

    async def gang(self, name: str, node: str, size: int) -> None:
        """A JobSet's Job runs on the node."""
        ...

    async def daemonset(self, name: str, node: str) -> None:
        """A DaemonSet's pod runs on the node."""
        ...

    async def bare_pod(self, name: str, node: str) -> None:
        """A pod without owner runs on the node."""
        ...

    async def budget(self, name: str, app: str, minimum: int) -> None:
        """A PodDisruptionBudget guards an app."""
        ...

    async def stand_still(self, node: str) -> None:
        """Nothing that is asked for happens to the node any more."""
        ...

    async def foreign_lock(self, node: str, holder: str, span: timedelta) -> None:
        """Another tool holds the node's lock."""
        ...

    async def until(self, check: Callable[[], Awaitable[object]], words: str) -> None:
        """Time passes until the check is true."""
        ...
