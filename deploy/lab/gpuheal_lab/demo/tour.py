"""The story of `gpuheal demo`: set the stage, break one GPU, follow what happens, and compare the node with before."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from gpuheal_lab.demo import pipeline
from gpuheal_lab.demo.scene import Addresses, Scene, SimulatedScene
from gpuheal_lab.demo.timeline import Step, Timeline, seconds, short
from gpuheal_lab.demo.webhook_proxy import WebhookProxy
from gpuheal_lab.fleet import discovery
from gpuheal_lab.fleet.machine import FAULTS, Timings
from gpuheal_lab.fleet.objects import Json, differences, essence
from gpuheal_lab.fleet.spec import NodeSpec, fleet
from gpuheal_lab.servers.find import Generation, ServerUnavailable, ensure, find
from gpuheal_lab.servers.process import LabError, free_ports
from gpuheal_lab.servers.stack import Stack
from gpuheal_responder.core.case import Case
from gpuheal_responder.core.case import Result as Ending
from gpuheal_responder.core.undo import TAINT_KEY, UNDO_ANNOTATION

Say = Callable[[str], None]

CLUSTER = "demo"
POLL_S = 0.05
GPUS = 8
SERVERS = ("prometheus", "alertmanager")
EXAMPLE = '{"node": "gpu-node-001", "gpu": 0, "fault": "gpu-fell-off-bus"}'


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the demo was asked for."""

    folder: Path
    nodes: int = 8
    fault: str = "gpu-fell-off-bus"
    cluster: str = "sim"
    speed: float = 1.0
    port: int = 0
    generation: Generation | None = None
    interval: timedelta = timedelta(seconds=1)
    """Between two scrapes, and between two evaluations of the rules."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Everything runs and knows of everything; nothing is broken yet."""

    plan: Plan
    scene: Scene
    path: pipeline.Pipeline
    proxy: WebhookProxy
    where: Addresses

    @property
    def urls(self) -> Mapping[str, str]:
        """What people may open in a browser."""
        return {
            "prometheus": f"http://{self.where.prometheus}/api/v1/alerts",
            "alertmanager": f"http://{self.where.alertmanager}/",
            "fleet": f"http://{self.where.fleet}/fleet",
            "responder": f"http://{self.where.responder}/readyz",
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of it."""

    ok: bool
    restored_exactly: bool
    ending: str
    node: str
    gpu_uuid: str
    fault: str
    cluster: str
    steps: Sequence[Step]
    stage_seconds: Mapping[str, float | None]
    differences: Sequence[str]
    urls: Mapping[str, str]

    def as_json(self) -> dict[str, Any]:
        """The result as plain data."""
        return {
            "ok": self.ok,
            "restored_exactly": self.restored_exactly,
            "ending": self.ending,
            "target": {"node": self.node, "gpu_uuid": self.gpu_uuid, "fault": self.fault},
            "cluster": self.cluster,
            "steps": [step.as_json() for step in self.steps],
            "stage_seconds": dict(self.stage_seconds),
            "differences": list(self.differences),
            "urls": dict(self.urls),
        }


@contextlib.asynccontextmanager
async def stage(plan: Plan, say: Say) -> AsyncIterator[Stage]:
    """Fleet, Prometheus, Alertmanager and responder run while the context lasts. Raises LabError if one cannot."""
    generation = await asyncio.to_thread(generation_of, plan.generation, say)
    specs = fleet(plan.nodes, GPUS)
    ports = list(range(plan.port, plan.port + 5)) if plan.port else free_ports(5)
    local = [f"127.0.0.1:{port}" for port in ports]
    where = Addresses(fleet=local[0], responder=local[1], webhook=local[2], alertmanager=local[3], prometheus=local[4])
    token_file = plan.folder / "token"
    token_file.write_text("demo", encoding="utf-8")
    scene = scene_of(plan, specs)
    proxy = WebhookProxy(where.responder)
    async with contextlib.AsyncExitStack() as ends:
        servers = Stack(plan.folder / "servers", generation)
        ends.push_async_callback(asyncio.to_thread, servers.__exit__, None, None, None)
        ends.push_async_callback(proxy.stop)
        ends.push_async_callback(scene.close)
        kind = f" ({generation} generation)" if generation else ""
        say(f"{plan.nodes} nodes × {GPUS} GPUs; starting Prometheus and Alertmanager{kind}, and the responder")
        await scene.start_fleet(ports[0])
        await proxy.start(ports[2])
        hook = pipeline.Webhook(address=where.webhook, responder=where.responder, token_file=token_file)
        scrape = discovery.write(plan.folder / "discovery", specs, where.fleet)
        begin = partial(
            pipeline.start,
            servers,
            scrape=scrape,
            webhook=hook,
            cluster=CLUSTER,
            interval=plan.interval,
            ports=(ports[3], ports[4]),
        )
        path = await asyncio.to_thread(begin)
        await scene.start_responder(where, token_file, CLUSTER)
        patience_s = 30 + 4 * plan.interval.total_seconds()
        await _know_fleet(path, plan.nodes * GPUS, patience_s)
        yield Stage(plan=plan, scene=scene, path=path, proxy=proxy, where=where)


async def _know_fleet(path: pipeline.Pipeline, count: int, patience_s: float) -> None:
    """Every GPU is known from both exporters. Asks again and again, so that Ctrl-C is heard in between."""
    problem = ""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(patience_s):
            while True:
                try:
                    if await asyncio.to_thread(path.knows, count):
                        return
                except LabError as error:
                    problem = f"; {error}"
                await asyncio.sleep(0.3)
    raise LabError(f"waited {patience_s:g} s for Prometheus to know {count} GPUs from two sources{problem}")


def scene_of(plan: Plan, specs: Sequence[NodeSpec]) -> Scene:
    """The scene that was asked for, not started."""
    timings = Timings().scaled(plan.speed)
    if plan.cluster == "sim":
        return SimulatedScene(specs, timings=timings)
    from gpuheal_lab.demo.kubescene import KubeScene

    return KubeScene(specs, folder=plan.folder / "cluster", timings=timings)


def generation_of(wanted: Generation | None, say: Say) -> Generation | None:
    """The wanted generation, else the newest of which both servers are here, else None: one of each.

    What is not here is fetched. Raises LabError that names every way tried if it cannot be had.
    """
    for generation in (wanted,) if wanted else (Generation.CURRENT, Generation.DEBIAN, None):
        with contextlib.suppress(ServerUnavailable):
            for name in SERVERS:
                find(name, generation)
            return generation
    say("Prometheus or Alertmanager not found on this machine; downloading or building them once (can take minutes)")
    for name in SERVERS:
        ensure(name, wanted)
    return wanted


async def play(stage: Stage, say: Say, *, deadline_s: float) -> Result:
    """One GPU is broken, and the node is watched until its case is closed, escalated, or `deadline_s` is over."""
    scene, fault = stage.scene, FAULTS[stage.plan.fault]()
    spec = scene.specs[min(2, len(scene.specs) - 1)]
    gpu = spec.gpus[5]
    before = essence(await scene.raw(spec.name))
    timeline = Timeline(say)
    say("")
    at = datetime.now(UTC)
    await scene.break_gpu(spec.name, gpu.uuid, fault)
    line = fault.kernel_lines[0].format(pci=gpu.kernel_address)
    timeline.at_once("kernel line", at, f"{spec.name}: {line}")
    story = Story(stage=stage, timeline=timeline, node=spec.name, since=at)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(deadline_s):
            await story.follow()
    after = await scene.raw(spec.name)
    found = differences(before, essence(after))
    exactly = not found and UNDO_ANNOTATION not in after["metadata"].get("annotations", {})
    return Result(
        ok=exactly and story.result is Ending.RESTORED,
        ending=story.result.value if story.result is not None else story.escalated or "timed out",
        restored_exactly=exactly,
        node=spec.name,
        gpu_uuid=gpu.uuid,
        fault=fault.slug,
        cluster=stage.plan.cluster,
        steps=timeline.ordered(),
        stage_seconds=story.stage_seconds(),
        differences=found,
        urls=stage.urls,
    )


async def watch(stage: Stage, say: Say) -> None:
    """Every further case is told as it goes on, until cancelled."""
    timelines = {case.name: Timeline(lambda _: None) for case in await stage.scene.cases()}
    while True:
        for case in await stage.scene.cases():
            if case.name not in timelines:
                say(f"\n{case.node}: {', '.join(fault.slug for fault in case.faults)}")
                timelines[case.name] = Timeline(say)
            timelines[case.name].follow(case)
            timelines[case.name].held(stage.scene.verdict(case.name))
        await asyncio.sleep(POLL_S)


@dataclass(slots=True, kw_only=True)
class Story:
    """What is known so far of one healing; looked at many times a second, so that moments are known to 0.1 s."""

    stage: Stage
    timeline: Timeline
    node: str
    since: datetime
    alert_at: datetime | None = None
    webhook_at: datetime | None = None
    tainted_at: datetime | None = None
    restored_at: datetime | None = None
    result: Ending | None = None
    escalated: str = ""

    async def follow(self) -> None:
        """The case is closed and Kubernetes has followed, or the case is escalated to people."""
        watch = asyncio.create_task(self._watch_alert())
        try:
            while True:
                raw = await self.stage.scene.raw(self.node)
                self._look_at(raw)
                case = self._newest(await self.stage.scene.cases())
                if case is not None:
                    self.timeline.follow(case)
                    self.timeline.held(self.stage.scene.verdict(case.name))
                    self.result, self.escalated = case.result, case.escalated
                    if case.escalated or (case.closed_at is not None and self._settled(raw)):
                        return
                await asyncio.sleep(POLL_S)
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)

    def stage_seconds(self) -> Mapping[str, float | None]:
        """Seconds from one moment to the next; None where a moment was never seen."""
        return {
            "kernel_line_to_alert": _between(self.since, self.alert_at),
            "alert_to_webhook": _between(self.alert_at, self.webhook_at),
            "webhook_to_taint": _between(self.webhook_at, self.tainted_at),
            "taint_to_restored": _between(self.tainted_at, self.restored_at),
        }

    async def _watch_alert(self) -> None:
        """Alertmanager is asked for the alert, the proxy for its delivery, until both are known."""
        ask = partial(pipeline.alert_of, self.stage.path.alertmanager, node=self.node, fault=self.stage.plan.fault)
        while self.alert_at is None or self.webhook_at is None:
            if self.alert_at is None:
                alert = await asyncio.to_thread(ask)
                if alert is not None:
                    self.alert_at = datetime.fromisoformat(alert["startsAt"])
                    text = f"{alert['labels']['alertname']}: {alert['annotations']['description']}"
                    self.timeline.at_once("alert", self.alert_at, text)
            delivery = self.stage.proxy.first(self.node, since=self.since)
            if delivery is not None and self.alert_at is not None:
                self.webhook_at = delivery.at
                self.timeline.at_once(
                    "webhook",
                    delivery.at,
                    "Alertmanager's webhook woke the responder; it then reads the current state itself",
                )
            await asyncio.sleep(POLL_S)

    def _look_at(self, raw: Json) -> None:
        now = datetime.now(UTC)
        marked = any(taint["key"] == TAINT_KEY for taint in raw["spec"].get("taints", ()))
        if marked and self.tainted_at is None:
            self.tainted_at = now
        if not marked and self.tainted_at is not None and self.restored_at is None:
            self.restored_at = now

    def _newest(self, cases: Sequence[Case]) -> Case | None:
        mine = [c for c in cases if c.node == self.node and c.opened_at >= self.since - timedelta(seconds=1)]
        return max(mine, key=lambda c: c.opened_at, default=None)

    def _settled(self, raw: Json) -> bool:
        """Whether Kubernetes' own controllers have followed the uncordon."""
        return not any(t["key"].startswith("node.kubernetes.io/") for t in raw["spec"].get("taints", ()))


def _between(first: datetime | None, second: datetime | None) -> float | None:
    return None if first is None or second is None else round(seconds(second - first), 3)


def summary(result: Result) -> list[str]:
    """Return what is printed at the end; the URLs are told only where the servers go on."""
    words = {
        "kernel_line_to_alert": "kernel line → alert",
        "alert_to_webhook": "alert → webhook",
        "webhook_to_taint": "webhook → taint",
        "taint_to_restored": "taint → restored",
    }
    lines = ["", f"{result.node}, {result.gpu_uuid}, {result.fault}"]
    for key, text in words.items():
        value = result.stage_seconds[key]
        lines.append(f"  {text:<22}{'not seen' if value is None else f'{value:7.2f} s'}")
    if result.ok:
        lines.append("  The node is exactly as it was before: labels, annotations, taints, cordon and conditions.")
    else:
        lines.append(f"  The node is NOT as it was before; the case ended as: {result.ending}")
        lines += [f"    {short(difference)}" for difference in result.differences]
    return lines
