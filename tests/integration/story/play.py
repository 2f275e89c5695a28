"""Everything of one story: nodes, fleet, Prometheus, Alertmanager, the responder's process, and what may come between.

All calls block, with deadlines. The responder is `gpuheal serve` on a settings file, with a token of its own service
account; nothing of it runs in the test's process.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import yaml
from tests.integration.plane import LEASES, REMEDIATIONS
from tests.integration.story.background import Background
from tests.integration.story.door import Door
from tests.integration.story.relay import Carrier, Relay, faithful

from gpuheal_lab.controlplane.kubeapi import ApiRefused
from gpuheal_lab.controlplane.manifests import write_kubeconfig
from gpuheal_lab.controlplane.plane import ControlPlane
from gpuheal_lab.demo import pipeline
from gpuheal_lab.demo.kubefleet import JOBS, KubeFleet, machines
from gpuheal_lab.fleet import discovery
from gpuheal_lab.fleet.machine import GpuFault, Timings, fell_off_bus
from gpuheal_lab.fleet.objects import canonical, differences, essence
from gpuheal_lab.fleet.spec import NodeSpec
from gpuheal_lab.servers.find import Generation
from gpuheal_lab.servers.process import Child, LabError, free_ports
from gpuheal_lab.servers.stack import SCRAPE_SOON, Stack, wait_for

Json = dict[str, Any]

GPUHEAL = Path(sys.executable).with_name("gpuheal")
LEASE = f"{LEASES}/gpuheal-responder"
CONTROLLERS = "node.kubernetes.io/"
IMAGE = "tools@sha256:" + "0" * 64
CLUSTER = "story"
FAULT = "gpu-fell-off-bus"
STORY_S = 60.0
QUICK = Timings().scaled(2)
_NUMBERS = itertools.count(1)

LADDER: tuple[object, ...] = (
    "taint",
    "cordon",
    "condition",
    {"drain": {"deadline": "1m"}},
    {"reboot": {"provider": "job", "deadline": "1m"}},
    {"verify": {"evaluations": 3, "deadline": "1m"}},
    {"probation": {"quiet": "2s"}},
    "restore",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """What a story is like before it begins."""

    mode: str = "enforce"
    steps: Sequence[object] = LADDER
    nodes: int = 3
    timings: Timings = QUICK
    generation: Generation = Generation.CURRENT
    door: bool = False
    carry: Carrier = faithful
    exporters: Mapping[int, Callable[[NodeSpec], str]] = field(default_factory=dict)
    """Makes a real exporter for the node of this index and tells its host:port; it stands in for the played one."""
    respond: bool = True
    settle: str = "1s"
    """How long a Prometheus that has just started is not trusted."""
    blind: bool = False
    """A Prometheus that starts again scrapes for the first time after some 5 s, as any site's does by default."""


@dataclass(slots=True)
class Play:
    """One story under way; `close` ends everything."""

    plane: ControlPlane
    folder: Path
    script: Script
    number: int = 0
    background: Background = field(default_factory=Background)
    ends: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    fleet: KubeFleet = field(init=False)
    path: pipeline.Pipeline = field(init=False)
    responder: Child = field(init=False)
    relay: Relay = field(init=False)
    door: Door | None = None
    listen: str = ""

    def open(self) -> None:
        """Everything runs, every GPU is known to Prometheus, and the responder has looked once."""
        self.number = next(_NUMBERS)
        self.ends.enter_context(self.background)
        specs = machines(f"s{self.number}", self.script.nodes, seed=self.number)
        self.fleet = KubeFleet(self.plane, specs, timings=self.script.timings, seed=self.number)
        self.ends.callback(self.fleet.remove)
        self.fleet.register()
        address = self.background.run(self.fleet.start())
        self.ends.callback(lambda: self.background.run(self.fleet.stop()))
        self.listen = f"127.0.0.1:{free_ports(1)[0]}"
        self.relay = Relay(self.listen, self.script.carry)
        self.background.run(self.relay.start())
        self.ends.callback(lambda: self.background.run(self.relay.stop()))
        if self.script.door:
            self.door = Door(self.plane)
            self.background.run(self.door.start())
            self.ends.callback(lambda: self.background.run(self._door().stop()))
        self._start_path(address)
        self.responder = self._responder()
        self.ends.callback(self.responder.kill)
        if self.door is not None:
            self.door.pid = lambda: self.responder.pid
        if self.script.respond:
            self.respond()
        self._wait_for_fleet()

    def close(self) -> None:
        """Nothing of the story runs any more."""
        self.ends.close()

    def respond(self) -> None:
        """The responder runs and is ready; the Lease of one that was killed has run out."""
        self.drop_lease()
        self.responder.start()

    def drop_lease(self) -> None:
        """Whoever led does not any more, as if the Lease's 15 s were over."""
        with contextlib.suppress(ApiRefused):
            self.plane.admin.delete(LEASE)

    # What happens

    def node(self, index: int = 0) -> str:
        """The name of a node."""
        return self.fleet.names[index]

    def break_gpu(self, index: int = 0, gpu: int = 3, fault: GpuFault | None = None) -> str:
        """The GPU is broken; returns the node's name."""
        name = self.node(index)
        self.background.call(self.fleet.simulation.break_gpu, name, gpu, fault or fell_off_bus())
        return name

    # What is so

    def raw(self, name: str) -> Json:
        """The Node object."""
        return self.plane.node(name)

    def settled(self, name: str) -> Json:
        """The Node object once Kubernetes' own controllers have no taint on it."""

        def check() -> Json | None:
            node = self.raw(name)
            taints = node["spec"].get("taints", ())
            told = "node.alpha.kubernetes.io/ttl" in node["metadata"].get("annotations", {})
            return node if told and not any(t["key"].startswith(CONTROLLERS) for t in taints) else None

        return wait_for(check, f"{name} to be without taints of Kubernetes' own")

    def remediations(self) -> list[Json]:
        """All Remediations by name."""
        return sorted(self.plane.admin.list(REMEDIATIONS), key=lambda r: str(r["metadata"]["name"]))

    def case(self, name: str) -> Json | None:
        """The newest Remediation of a node."""
        mine = [r for r in self.remediations() if r["spec"]["node"] == name]
        return max(mine, key=lambda r: str(r["spec"]["openedAt"]), default=None)

    def wait_case(self, name: str, check: Callable[[Json], Any], what: str, deadline_s: float = STORY_S) -> Json:
        """The node's newest Remediation once `check` holds of its status; the responder's log if it never does."""
        last: list[Any] = [None]

        def look() -> Json | None:
            found = self.case(name)
            last[0] = found and told(found)
            return found if found is not None and check(found.get("status", {})) else None

        try:
            return wait_for(look, what, deadline_s)
        except LabError as problem:
            log = self.responder.log_tail(4000)
            raise AssertionError(
                f"{problem}\n{last[0]}\nbehind: {self.fleet.problems[-3:]}\nresponder:\n{log}"
            ) from None

    def wait_closed(self, name: str, result: str = "restored", deadline_s: float = STORY_S) -> Json:
        """The node's Remediation, closed with this result."""
        closed = self.wait_case(name, lambda s: s.get("closedAt"), f"the case of {name} to be closed", deadline_s)
        assert closed["status"]["result"] == result, told(closed)
        return closed

    def wait_step(self, name: str, step: str, state: str = "running", deadline_s: float = STORY_S) -> Json:
        """The node's Remediation with an attempt at this step in this state."""
        return self.wait_case(
            name,
            lambda s: any(a["step"] == step and a["state"] == state for a in s.get("attempts", ())),
            f"{step} of {name} to be {state}",
            deadline_s,
        )

    def wait_blocked(self, name: str, *words: str, deadline_s: float = STORY_S) -> Json:
        """The node's Remediation, held with these words among what people are shown."""

        def check(status: Json) -> bool:
            shown = f"{status.get('state')} {status.get('step')} {status.get('next')} {status.get('blockedBy')}"
            return all(word in shown for word in words)

        return self.wait_case(name, check, f"the case of {name} to show {words}", deadline_s)

    def jobs(self, name: str) -> list[Json]:
        """The reboot Jobs that were made for a node."""
        found = self.plane.admin.list(JOBS)
        return [j for j in found if j["metadata"]["annotations"]["gpu.health/node"] == name]

    def events(self, name: str) -> list[str]:
        """Reasons of our Events on a node."""
        found = self.plane.admin.list("/api/v1/namespaces/default/events")
        mine = [e for e in found if e["involvedObject"]["name"] == name]
        return [
            e["reason"]
            for e in mine
            if "gpuheal" in (e.get("source", {}).get("component"), e.get("reportingComponent"))
        ]

    # The parts

    def _door(self) -> Door:
        assert self.door is not None
        return self.door

    def _start_path(self, fleet_address: str) -> None:
        stack = self.ends.enter_context(Stack(self.folder / "servers", self.script.generation))
        token = self._token()
        specs = list(self.fleet.simulation.specs.values())
        scrape = discovery.write(self.folder / "discovery", specs, fleet_address)
        for index, make in self.script.exporters.items():
            self._stand_in(specs[index].name, make(specs[index]))
        hook = pipeline.Webhook(address=self.relay.address, responder=self.listen, token_file=token)
        self.path = pipeline.start(stack, scrape=scrape, webhook=hook, cluster=CLUSTER, interval=timedelta(seconds=1))
        if self.script.blind:
            self.path.prometheus.child.argv.remove(SCRAPE_SOON)

    def _stand_in(self, name: str, address: str) -> None:
        path = self.folder / "discovery" / f"{discovery.EXPORTER}.json"
        groups = json.loads(path.read_text(encoding="utf-8"))
        for group in groups:
            if group["labels"]["node"] == name:
                group["targets"] = [address]
                group["labels"]["__metrics_path__"] = "/metrics"
        path.write_text(json.dumps(groups), encoding="utf-8")

    def _wait_for_fleet(self) -> None:
        count = sum(len(s.gpus) for s in self.fleet.simulation.specs.values())
        self.path.wait_for_fleet(count, deadline_s=60)

    def _token(self) -> Path:
        path = self.folder / "token"
        path.write_text("story", encoding="utf-8")
        return path

    def _responder(self) -> Child:
        policies = self.folder / "policies.yaml"
        policy = {"name": "story", "mode": self.script.mode, "match": {"faults": [FAULT]}}
        policies.write_text(yaml.safe_dump({"policies": [policy | {"steps": list(self.script.steps)}]}), "utf-8")
        if self.door is not None:
            kubeconfig = write_kubeconfig(self.plane, self.door.url)
        else:
            kubeconfig = write_kubeconfig(self.plane)
        settings = self.folder / "settings.yaml"
        settings.write_text(yaml.safe_dump(self._settings(policies, kubeconfig)), "utf-8")
        return Child(
            "responder",
            [str(GPUHEAL), "serve", "--config", str(settings)],
            log_path=self.folder / "responder.log",
            ready=self._unready,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )

    def _settings(self, policies: Path, kubeconfig: Path) -> Json:
        host, _, port = self.listen.rpartition(":")
        token = str(self.folder / "token")
        return {
            "cluster": CLUSTER,
            "policies": [str(policies)],
            "listen": {
                "host": host,
                "port": int(port),
                "webhook_token_files": [token],
                "metrics_token_files": [str(pipeline.scrape_token(self.folder / "token"))],
            },
            "alertmanagers": [{"url": self.path.alertmanager.url, "settle": "1s"}],
            "prometheus": {
                "url": self.path.prometheus.url,
                "settle": self.script.settle,
                "job": pipeline.PROMETHEUS_JOB,
            },
            "kubernetes": {"kubeconfig": str(kubeconfig)},
            "engine": {"tick": "1s"},
            "providers": {"default": "job", "job": {"image": IMAGE}},
            "watchdog": {"interval": "5s", "thaw": "2s"},
        }

    def _unready(self) -> str | None:
        try:
            with urllib.request.urlopen(f"http://{self.listen}/readyz", timeout=3):
                return None
        except urllib.error.HTTPError as problem:
            with problem:
                return problem.read(500).decode(errors="replace")
        except OSError as problem:
            return str(problem)


def told(remediation: Json) -> str:
    """A Remediation in a few lines, for messages."""
    status = remediation.get("status", {})
    shown = {k: status.get(k) for k in ("state", "step", "next", "blockedBy", "escalated", "closedAt", "result")}
    lines = [f"{remediation['metadata']['name']}: {shown}"]
    lines += [
        f"  {a['step']} {a['state']} {a['startedAt']} {a.get('endedAt')} {a.get('reason')} {a.get('detail')}"
        for a in status.get("attempts", ())
    ]
    return "\n".join(lines)


def steps_of(remediation: Json) -> list[str]:
    """The attempts as `step state`, in order."""
    return [f"{a['step']} {a['state']}" for a in remediation["status"].get("attempts", ())]


def assert_as_before(play: Play, name: str, before: Json, *, rebooted: bool = True) -> None:
    """The node is byte for byte what it was, but for versions, heartbeat times and, after a reboot, its boot id."""
    wanted = canonical(essence(before))
    with contextlib.suppress(LabError):  # what is different after all this time is told below
        wait_for(lambda: canonical(essence(play.raw(name))) == wanted, f"{name} to be as before", 15.0)
    after = play.raw(name)
    assert differences(essence(before), essence(after)) == []
    assert canonical(essence(after)) == wanted
    same_boot = after["status"]["nodeInfo"]["bootID"] == before["status"]["nodeInfo"]["bootID"]
    assert same_boot is not rebooted


def until(check: Callable[[], Any], what: str, deadline_s: float = 20.0) -> Any:
    """What `check` returns once it is true."""
    return wait_for(check, what, deadline_s)


def pause(seconds: float) -> None:
    """Time passes: for what must not happen there is no event to wait for."""
    time.sleep(seconds)
