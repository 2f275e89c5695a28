"""The parts a responder is made of, whoever plays them: real servers, or the lab."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from gpuheal_responder.core.policy import Policy
from gpuheal_responder.shell.http.approval import Holds
from gpuheal_responder.shell.kube.review import People
from gpuheal_responder.shell.round.observe import Ports
from gpuheal_responder.shell.sources.deadman import Pipeline
from gpuheal_responder.shell.telemetry import Telemetry


class Service(Protocol):
    """Something that runs beside the engine."""

    def start(self) -> Sequence[asyncio.Task[None]]:
        """Begin; return the tasks that run until `stop`. One that ends before then ends the process."""
        ...

    async def stop(self) -> None:
        """End; repeatable."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Everything outside, and who we are among the replicas."""

    ports: Ports
    policies: Callable[[], Sequence[Policy]]
    faults: frozenset[str]
    people: People
    holds: Holds
    telemetry: Telemetry
    pipeline: Pipeline
    may_act: Callable[[], bool] = lambda: True
    holder: Callable[[], str] = lambda: ""
    """Who leads, as far as is known."""
    services: Sequence[Service] = ()
