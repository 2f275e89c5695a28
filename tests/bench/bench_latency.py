"""From the kernel line to the taint: how long each stage takes, over a hundred injections at 1 s, 5 s and 15 s scrapes.

Real Prometheus and Alertmanager with the generated rules and routes, the real responder, a simulated fleet and cluster.
Each node breaks once, at a random moment of the scrape interval. The mark budget is lifted by LIMITS, which no policy
file can say; the policy only taints. `python -m tests.bench.bench_latency [--nodes N] [--scrape 1 5 15]`
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.responder.stage import CLUSTER

from gpuheal_lab.demo import pipeline
from gpuheal_lab.demo.scene import Addresses, SimulatedScene
from gpuheal_lab.demo.webhook_proxy import WebhookProxy
from gpuheal_lab.fleet import discovery
from gpuheal_lab.fleet.machine import Timings, fell_off_bus
from gpuheal_lab.fleet.spec import fleet
from gpuheal_lab.servers.find import Generation
from gpuheal_lab.servers.process import free_ports
from gpuheal_lab.servers.stack import Stack
from gpuheal_responder.core.phase import Phase
from gpuheal_responder.core.policy import Limits

LIMITS = Limits(mark_percent=100)
DEADLINE_S = 120.0
STAGES = ("kernel line → alert", "alert → webhook", "webhook → taint", "kernel line → taint")


@dataclass(frozen=True, slots=True)
class Sample:
    """Moments of one injection."""

    line: datetime
    alert: datetime
    webhook: datetime
    taint: datetime

    def seconds(self) -> tuple[float, ...]:
        """Return the stages in seconds, in the order of STAGES."""
        pairs = (
            (self.line, self.alert),
            (self.alert, self.webhook),
            (self.webhook, self.taint),
            (self.line, self.taint),
        )
        return tuple((later - earlier).total_seconds() for earlier, later in pairs)


async def run(nodes: int, scrape_s: float, seed: int) -> list[Sample]:
    """Return the samples of one stack."""
    scene = SimulatedScene(fleet(nodes, 1), timings=Timings(), seed=seed)
    responder_port, proxy_port, fleet_port, am_port, prometheus_port = free_ports(5)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        token = folder / "token"
        token.write_text("bench-token\n")
        proxy = WebhookProxy(f"127.0.0.1:{responder_port}")
        where = Addresses(
            fleet=f"127.0.0.1:{fleet_port}",
            responder=f"127.0.0.1:{responder_port}",
            webhook=f"127.0.0.1:{proxy_port}",
            alertmanager=f"127.0.0.1:{am_port}",
            prometheus=f"127.0.0.1:{prometheus_port}",
        )
        with Stack(folder / "stack", Generation.CURRENT) as stack:
            await scene.start_fleet(fleet_port)
            await proxy.start(proxy_port)
            try:
                made = await asyncio.to_thread(
                    pipeline.start,
                    stack,
                    scrape=discovery.write(folder / "discovery", scene.specs, where.fleet),
                    webhook=pipeline.Webhook(address=where.webhook, token_file=token, responder=where.responder),
                    cluster=CLUSTER,
                    interval=timedelta(seconds=scrape_s),
                    ports=(am_port, prometheus_port),
                )
                await scene.start_responder(where, token, CLUSTER)
                assert scene._app is not None
                (policy,) = scene._app.engine.policies()
                contain = tuple(s for s in policy.of(Phase.CONTAIN) if s.action == "taint")
                scene._app.engine.policies = lambda: (replace(policy, limits=LIMITS, steps=contain),)
                await asyncio.to_thread(made.wait_for_fleet, nodes, 60 + 6 * scrape_s)
                await asyncio.sleep(2 * scrape_s)
                return await inject(scene, made, proxy, scrape_s, random.Random(seed))
            finally:
                await scene.close()
                await proxy.stop()


async def inject(
    scene: SimulatedScene, made: pipeline.Pipeline, proxy: WebhookProxy, scrape_s: float, chance: random.Random
) -> list[Sample]:
    """Break every node once, spread over enough time for one in a third of a second, and collect the moments."""
    began: dict[str, datetime] = {}
    for spec in scene.specs:
        began[spec.name] = datetime.now(UTC)
        await scene.break_gpu(spec.name, "0", fell_off_bus())
        await asyncio.sleep(chance.uniform(0.2, 0.46))
    deadline = time.monotonic() + DEADLINE_S + 4 * scrape_s
    marks: dict[str, datetime] = {}
    while time.monotonic() < deadline and len(marks) < len(began):
        marks = {c.target: c.at for c in reversed(scene.simulation.gate.made("mark"))}
        await asyncio.sleep(0.2)
    alerts = {}
    for alert in await asyncio.to_thread(made.alertmanager.alerts):
        if alert["labels"].get("alertname") == "GPUFellOffBus":
            alerts[alert["labels"]["node"]] = datetime.fromisoformat(alert["startsAt"])
    samples = []
    for node, line in began.items():
        first = proxy.first(node, since=line)
        if node in marks and node in alerts and first is not None:
            samples.append(Sample(line=line, alert=alerts[node], webhook=first.at, taint=marks[node]))
    return samples


def report(scrape_s: float, asked: int, samples: Sequence[Sample]) -> None:
    """Print quantiles per stage."""
    print(f"scrape and evaluation every {scrape_s:g} s: {len(samples)} of {asked} injections measured", flush=True)
    for index, stage in enumerate(STAGES):
        values = sorted(s.seconds()[index] for s in samples)
        if values:
            p99 = values[min(len(values) - 1, int(len(values) * 0.99))]
            print(f"  {stage:<22} p50 {statistics.median(values):6.2f} s   p99 {p99:6.2f} s   max {values[-1]:6.2f} s")


def main(argv: Sequence[str]) -> int:
    """Print the figures of every scrape interval."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=104)
    parser.add_argument("--scrape", type=float, nargs="+", default=[1, 5, 15])
    args = parser.parse_args(argv)
    complete = True
    for scrape_s in args.scrape:
        samples = asyncio.run(run(args.nodes, scrape_s, seed=int(scrape_s)))
        report(scrape_s, args.nodes, samples)
        complete = complete and len(samples) == args.nodes
    return 0 if complete else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
