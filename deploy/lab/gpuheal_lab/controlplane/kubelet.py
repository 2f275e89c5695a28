"""Plays the kubelets of every node of a control plane that has no machines: one process, started by `ControlPlane`.

It does what others can observe of a kubelet: renews the node's Lease, keeps Ready true, runs pods that are bound to the
node (Pending → Running, pods of Jobs → Succeeded) and removes pods that are being deleted. It writes only what a
kubelet owns: other conditions, labels, taints, and capacity and nodeInfo once set (so also a patched bootID) stay.

Nodes named in the control file ({"left": [...]}) are left alone, as if their machine had died. Annotations on a pod:
`lab.gpu.health/run-seconds` (it completes after that), `…/exit-code`, `…/stop-seconds` (it takes that long to go away).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp

from gpuheal_lab.controlplane.kubeletstatus import (
    completed,
    completes_after_s,
    is_ready,
    killed,
    node_status,
    running,
    seconds,
)

Json = dict[str, Any]

PAGE = 500
IN_FLIGHT = 32
REQUEST_DEADLINE_S = 10.0
WATCH_S = 300
RETRY_S = 0.3
CONTROL_POLL_S = 0.1
MAX_OBJECT = 16 * 2**20  # one watch event is one line; an object in etcd is at most 1.5 MiB
LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
STRATEGIC = "application/strategic-merge-patch+json"
MERGE = "application/merge-patch+json"
NO_ANSWER = (aiohttp.ClientError, TimeoutError, OSError)


class Refused(Exception):
    """The API server answered with a status of 400 or more."""

    def __init__(self, status: int, text: str) -> None:
        self.status = status
        super().__init__(f"{status}: {text[:300]}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How the process was started."""

    url: str
    token: str
    ca_file: Path
    control: Path
    ready: Path
    lease_s: int
    renew_s: float


@dataclass(slots=True, kw_only=True)
class Seen:
    """What the watches have shown so far."""

    nodes: dict[str, Json] = field(default_factory=dict)
    pods: dict[str, Json] = field(default_factory=dict)
    left: frozenset[str] = frozenset()

    def manages(self, node: str) -> bool:
        return node in self.nodes and node not in self.left


class Api:
    """Requests to the API server with a deadline, at most IN_FLIGHT at once."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url
        self._places = asyncio.Semaphore(IN_FLIGHT)

    async def send(self, method: str, path: str, body: Json | None = None, kind: str = "application/json") -> Json:
        """The JSON answer; raises Refused, or what aiohttp raises."""
        data = None if body is None else json.dumps(body)
        async with (
            self._places,
            asyncio.timeout(REQUEST_DEADLINE_S),
            self._session.request(method, self._url + path, data=data, headers={"Content-Type": kind}) as answer,
        ):
            text = await answer.text()
            if answer.status >= 400:
                raise Refused(answer.status, text)
            parsed: Json = json.loads(text)
            return parsed

    async def list(self, path: str, query: str = "") -> tuple[list[Json], str]:
        """All objects, page by page, and the resourceVersion to watch from."""
        found: list[Json] = []
        more = ""
        while True:
            page = await self.send("GET", f"{path}?limit={PAGE}{query}" + (f"&continue={more}" if more else ""))
            found += page["items"]
            more = page["metadata"].get("continue", "")
            if not more:
                return found, page["metadata"]["resourceVersion"]

    async def watch(self, path: str, version: str, query: str = "") -> AsyncIterator[Json]:
        """Events after `version`, until the server ends the watch."""
        url = f"{self._url}{path}?watch=1&resourceVersion={version}&timeoutSeconds={WATCH_S}{query}"
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=REQUEST_DEADLINE_S, sock_read=WATCH_S + 30)
        async with self._session.get(url, timeout=timeout, read_bufsize=MAX_OBJECT) as answer:
            if answer.status >= 400:
                raise Refused(answer.status, await answer.text())
            while line := await answer.content.readline():
                event: Json = json.loads(line)
                if event["type"] == "ERROR":
                    raise Refused(int(event["object"].get("code", 500)), str(event["object"].get("message")))
                yield event


class Kubelets:
    """The loops: watch nodes, watch pods, renew Leases, read the control file."""

    def __init__(self, api: Api, settings: Settings) -> None:
        self._api = api
        self._settings = settings
        self._seen = Seen()
        self._synced: set[str] = set()
        self._busy: dict[str, bool] = {}  # key of a node or pod being worked on → whether it changed meanwhile
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Runs until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._control())
            group.create_task(self._follow("/api/v1/nodes", "", self._on_node))
            group.create_task(self._follow("/api/v1/pods", "&fieldSelector=spec.nodeName!%3D", self._on_pod))
            group.create_task(self._heartbeats())

    async def _follow(self, path: str, query: str, handle: Callable[[str, Json], None]) -> None:
        while True:
            try:
                objects, version = await self._api.list(path, query)
                handle("SYNC", {"items": objects})
                self._note_synced(path)
                async for event in self._api.watch(path, version, query):
                    handle(event["type"], event["object"])
            except (Refused, ValueError, *NO_ANSWER) as error:
                _say(f"{path}: {type(error).__name__} {error}; listing again")
                await asyncio.sleep(RETRY_S)

    def _note_synced(self, path: str) -> None:
        self._synced.add(path)
        if len(self._synced) == 2:
            self._settings.ready.write_text(str(os.getpid()), encoding="utf-8")

    def _on_node(self, kind: str, node: Json) -> None:
        if kind == "SYNC":
            self._seen.nodes = {item["metadata"]["name"]: item for item in node["items"]}
            for name in self._seen.nodes:
                self._work("node " + name, self._care_for_node, name)
            return
        name = node["metadata"]["name"]
        if kind == "DELETED":
            self._seen.nodes.pop(name, None)
            return
        new = name not in self._seen.nodes
        self._seen.nodes[name] = node
        if new or not is_ready(node):
            self._work("node " + name, self._care_for_node, name)
            self._work_on_pods_of(name)

    def _on_pod(self, kind: str, pod: Json) -> None:
        if kind == "SYNC":
            self._seen.pods = {item["metadata"]["uid"]: item for item in pod["items"]}
            for uid in self._seen.pods:
                self._work("pod " + uid, self._care_for_pod, uid)
            return
        uid = pod["metadata"]["uid"]
        if kind == "DELETED":
            self._seen.pods.pop(uid, None)
            return
        self._seen.pods[uid] = pod
        self._work("pod " + uid, self._care_for_pod, uid)

    def _work_on_pods_of(self, node: str) -> None:
        for uid, pod in self._seen.pods.items():
            if pod["spec"].get("nodeName") == node:
                self._work("pod " + uid, self._care_for_pod, uid)

    def _work(self, key: str, care: Callable[[str], Coroutine[Any, Any, None]], name: str) -> None:
        """`care(name)` runs, once more if called while it was running: one task per object, so tasks are bounded."""
        if key in self._busy:
            self._busy[key] = True
            return
        self._busy[key] = False

        async def work() -> None:
            try:
                while True:
                    try:
                        await care(name)
                    except (Refused, *NO_ANSWER) as error:
                        gone_or_changed = isinstance(error, Refused) and error.status in (404, 409)
                        if not gone_or_changed:
                            _say(f"{key}: {type(error).__name__} {error}")
                            await asyncio.sleep(RETRY_S)
                            self._busy[key] = True
                    if not self._busy[key]:
                        return
                    self._busy[key] = False
            finally:
                del self._busy[key]

        task = asyncio.create_task(work())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _care_for_node(self, name: str) -> None:
        if not self._seen.manages(name):
            return
        await self._renew(name)
        node = self._seen.nodes.get(name)
        if node is not None and not is_ready(node):
            await self._api.send("PATCH", f"/api/v1/nodes/{name}/status", node_status(node, _now()), STRATEGIC)

    async def _renew(self, name: str) -> None:
        renewed = {
            "renewTime": _now(micro=True),
            "leaseDurationSeconds": self._settings.lease_s,
            "holderIdentity": name,
        }
        try:
            await self._api.send("PATCH", f"{LEASES}/{name}", {"spec": renewed}, MERGE)
        except Refused as error:
            node = self._seen.nodes.get(name)
            if error.status != 404 or node is None:
                raise
            owner = {"apiVersion": "v1", "kind": "Node", "name": name, "uid": node["metadata"]["uid"]}
            metadata = {"name": name, "ownerReferences": [owner]}
            lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": renewed}
            await self._api.send("POST", LEASES, lease)

    async def _heartbeats(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            for name in list(self._seen.nodes):
                if self._seen.manages(name):
                    self._work("node " + name, self._care_for_node, name)
            due = max(due + self._settings.renew_s, loop.time())
            await asyncio.sleep(due - loop.time())

    async def _control(self) -> None:
        while True:
            left = frozenset(_read_control(self._settings.control).get("left", ()))
            back = self._seen.left - left
            self._seen.left = left
            for name in back:
                self._work("node " + name, self._care_for_node, name)
                self._work_on_pods_of(name)
            await asyncio.sleep(CONTROL_POLL_S)

    async def _care_for_pod(self, uid: str) -> None:
        pod = self._seen.pods.get(uid)
        if pod is None or not self._seen.manages(pod["spec"].get("nodeName", "")):
            return
        meta = pod["metadata"]
        path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}"
        phase = pod.get("status", {}).get("phase", "Pending")
        if "deletionTimestamp" in meta:
            await asyncio.sleep(seconds(pod, "stop-seconds", 0.0))
            if self._seen.manages(pod["spec"]["nodeName"]):
                if phase not in ("Succeeded", "Failed"):  # the Job controller lets go of its pods only then
                    ended = {"metadata": {"uid": uid}, "status": killed(pod, _now())}
                    await self._api.send("PATCH", path + "/status", ended, STRATEGIC)
                await self._api.send("DELETE", path, {"gracePeriodSeconds": 0, "preconditions": {"uid": uid}})
        elif phase == "Pending":
            await self._api.send(
                "PATCH", path + "/status", {"metadata": {"uid": uid}, "status": running(pod, _now())}, STRATEGIC
            )
        elif phase == "Running" and (after_s := completes_after_s(pod)) is not None:
            if not await self._stays(uid, after_s):
                return
            if self._seen.manages(pod["spec"]["nodeName"]):
                ended = {"metadata": {"uid": uid}, "status": completed(pod, _now())}
                await self._api.send("PATCH", path + "/status", ended, STRATEGIC)

    async def _stays(self, uid: str, seconds: float) -> bool:
        """Whether the pod was still wanted after so long; False as soon as it is being deleted."""
        end = asyncio.get_running_loop().time() + seconds
        while True:
            pod = self._seen.pods.get(uid)
            if pod is None or "deletionTimestamp" in pod["metadata"]:
                return False
            left = end - asyncio.get_running_loop().time()
            if left <= 0:
                return True
            await asyncio.sleep(min(left, CONTROL_POLL_S))


def _read_control(path: Path) -> Mapping[str, Any]:
    try:
        parsed: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return parsed


def _now(*, micro: bool = False) -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ" if micro else "%Y-%m-%dT%H:%M:%SZ")


def _say(text: str) -> None:
    print(f"{_now()} {text}", flush=True)


async def serve(settings: Settings) -> None:
    """Plays kubelets until cancelled."""
    trust = ssl.create_default_context(cafile=str(settings.ca_file))
    headers = {"Authorization": f"Bearer {settings.token}"}
    connector = aiohttp.TCPConnector(ssl=trust, limit=IN_FLIGHT + 4)
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
        await Kubelets(Api(session, settings.url), settings).run()


def main(argv: Sequence[str]) -> int:
    """The command line `ControlPlane` starts it by; the token is read from $GPUHEAL_LAB_TOKEN."""
    parser = argparse.ArgumentParser(prog="python -m gpuheal_lab.controlplane.kubelet")
    parser.add_argument("--url", required=True)
    for name in ("--ca-file", "--control", "--ready"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--lease-seconds", type=int, default=40)
    parser.add_argument("--renew-seconds", type=float, default=10.0)
    chosen = parser.parse_args(argv)
    settings = Settings(
        url=chosen.url,
        token=os.environ["GPUHEAL_LAB_TOKEN"],
        ca_file=chosen.ca_file,
        control=chosen.control,
        ready=chosen.ready,
        lease_s=chosen.lease_seconds,
        renew_s=chosen.renew_seconds,
    )
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(settings))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
