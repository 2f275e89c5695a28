"""The responder as a whole: builds its parts from settings, starts and stops them. No decision is made here."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

from aiohttp import web

from gpuheal_responder.config.settings import Listen, Settings
from gpuheal_responder.core.duration import people_duration
from gpuheal_responder.errors import ConfigError
from gpuheal_responder.shell.http.admission import Admission
from gpuheal_responder.shell.http.people import CaseApi
from gpuheal_responder.shell.http.server import application, listening
from gpuheal_responder.shell.http.webhook import Intake, Web
from gpuheal_responder.shell.process.reload import Tokens
from gpuheal_responder.shell.process.supervisor import Supervisor
from gpuheal_responder.shell.round.engine import Engine
from gpuheal_responder.shell.round.pace import Pace
from gpuheal_responder.shell.sources.deadman import Wellbeing, ping_while_well
from gpuheal_responder.shell.wiring import Parts

OWNER = "gpuheal"
STALE_LOOKS = 4
SHUTDOWN = timedelta(seconds=10)


@dataclass(slots=True, kw_only=True)
class App:
    """One responder. `start` returns once it listens; `port` is the port it got."""

    settings: Settings
    parts: Parts
    engine: Engine
    port: int = 0
    supervisor: Supervisor = field(default_factory=Supervisor)
    """Watches every long-lived task; its `failure` says why the process cannot go on."""
    _open: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)
    _stop: asyncio.Event = field(default_factory=asyncio.Event)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def start(self, failed: Callable[[], None] = lambda: None) -> None:
        """Start the services, the engine and the web server; `failed` is called once a task has ended by itself."""
        self.supervisor.failed = failed
        for service in self.parts.services:
            self.supervisor.watch(service.start())
        self._tasks.append(asyncio.create_task(self.engine.run(self._stop), name="engine"))
        watchdog = self.settings.watchdog
        if watchdog.url_file is not None:
            well = Wellbeing(
                clock=self.parts.ports.clock,
                leads=self.parts.may_act,
                looked_at=lambda: self.engine.looked_at,
                patience=STALE_LOOKS * self.settings.engine.tick,
                pipeline=self.parts.pipeline,
            )
            ping = ping_while_well(watchdog.url_file, well.lacking, watchdog.interval, self._stop)
            self._tasks.append(asyncio.create_task(ping, name="dead man"))
        self.supervisor.watch(self._tasks)
        listen = self.settings.listen
        complain = self.parts.telemetry.config_error
        serving = listening(self._web(listen), listen, complain, self.supervisor, self.parts.telemetry.ended)
        _, self.port = await self._open.enter_async_context(serving)

    async def stop(self) -> None:
        """Stop after the round that is under way, and give the Lease back; repeatable."""
        self.supervisor.release()
        self._stop.set()
        await self._open.aclose()
        tasks, self._tasks = self._tasks, []
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=SHUTDOWN.total_seconds())
            for task in late:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for service in reversed(self.parts.services):
            await service.stop()

    def _web(self, listen: Listen) -> web.Application:
        complain = self.parts.telemetry.config_error
        webhook = Tokens(listen.webhook_token_files, complain) if listen.webhook_token_files else None
        metrics = Tokens(listen.metrics_token_files, complain) if listen.metrics_token_files else None
        if webhook is not None and metrics is not None and not webhook.disjoint(metrics):
            # an earlier README had it so: told, but no reason to fail
            shared = "the same token opens the webhook and /metrics"
            complain(ConfigError("settings", "listen", shared, "a scraper could send alerts"))
        admission = Admission(self.parts.people, over_http=listen.tokens_over_http)
        intake = Intake(
            wake=self.engine.wake,
            refusing=self._refusing,
            unready=self._unready,
            telemetry=self.parts.telemetry,
            admission=admission,
            webhook_tokens=webhook,
            metrics_tokens=metrics,
            client_names=frozenset(listen.tls.client_names) if listen.tls is not None else frozenset(),
        )
        ports = self.parts.ports
        people = CaseApi(
            admission=admission,
            remediations=ports.remediations,
            holds=self.parts.holds,
            telemetry=self.parts.telemetry,
            clock=ports.clock,
            leader=lambda: None if self.parts.may_act() else self.parts.holder(),
        )
        return application(Web(intake), people)

    def _refusing(self) -> str:
        return "" if self.engine.looked_at is not None else "starting"

    def _unready(self) -> str:
        looked_at = self.engine.looked_at
        if looked_at is None:
            return "starting: no round has completed yet"
        age = self.parts.ports.clock.now() - looked_at
        if age > STALE_LOOKS * self.settings.engine.tick:
            return f"the last successful round ended {people_duration(age)} ago"
        return ""


def build(settings: Settings, parts: Parts) -> App:
    """Return a responder made of these parts; nothing is started."""
    engine = Engine(
        ports=parts.ports,
        policies=parts.policies,
        cluster=settings.cluster,
        owner=OWNER,
        known_faults=parts.faults,
        recorder=parts.telemetry,
        may_act=parts.may_act,
        heartbeat=parts.pipeline.beat,
        pace=Pace(
            tick=settings.engine.tick,
            poll=min(Pace().poll, settings.engine.tick),
            concurrency=settings.engine.cases,
        ),
        budget_keys=settings.budgets.keys(),
    )
    return App(settings=settings, parts=parts, engine=engine)
