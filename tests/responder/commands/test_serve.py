"""The whole responder on a scripted API server: which tasks it runs, and that it ends when one of them breaks."""

from __future__ import annotations

import asyncio
import io
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml
from aiohttp import web
from aiohttp.test_utils import TestServer
from tests.responder.shell.kube.conftest import Told

from gpuheal_responder import app as subject
from gpuheal_responder.config.settings import load
from gpuheal_responder.shell.build import parts_of

GPUHEAL = Path(sys.executable).with_name("gpuheal")
NODES, REMEDIATIONS = "/api/v1/nodes", "/apis/gpu.health/v1alpha1/remediations"
DEADLINE_S = 30.0

Json = dict[str, Any]


@dataclass
class ApiServer:
    """Lists and watches that hold what they are told, and Leases with compare-and-swap; all else is not found.

    Lists are answered once somebody holds a Lease.
    """

    items: dict[str, list[Json]] = field(default_factory=lambda: {NODES: [], REMEDIATIONS: []})
    leases: Told = field(default_factory=Told)
    held: asyncio.Event = field(default_factory=asyncio.Event)
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    url: str = ""

    def __post_init__(self) -> None:
        self.leases.leases = {}

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        if "/leases" in request.path:
            answer = await self.leases.handle(request)
            if self.holder():
                self.held.set()
            return answer
        if request.path not in self.items:
            return web.json_response({"reason": "NotFound", "message": "not found"}, status=404)
        if "watch" in request.query:
            stream = web.StreamResponse()
            await stream.prepare(request)
            await self.closing.wait()
            return stream
        await self.held.wait()
        return web.json_response({"metadata": {"resourceVersion": "1"}, "items": self.items[request.path]})

    def holder(self) -> str:
        """Who holds the Lease of the executor."""
        assert self.leases.leases is not None
        lease = self.leases.leases.get("gpuheal-responder", {})
        return str(lease.get("spec", {}).get("holderIdentity") or "")


@pytest.fixture
async def api() -> AsyncIterator[ApiServer]:
    """An API server with nothing in it."""
    made = ApiServer()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", made.answer)
    server = TestServer(app)
    await server.start_server()
    made.url = str(server.make_url("")).rstrip("/")
    yield made
    made.closing.set()
    await server.close()


def write_settings(folder: Path, api: ApiServer) -> Path:
    """Settings with everything that has a task of its own: TLS and a dead man's URL too."""
    authority = trustme.CA()
    made = authority.issue_cert("localhost")
    made.private_key_pem.write_to_path(folder / "key.pem")
    (folder / "cert.pem").write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
    (folder / "token").write_text("secret")
    (folder / "dead-man").write_text(f"{api.url}/dead-man")
    policy = {"name": "p", "match": {"faults": ["gpu-fell-off-bus"]}, "steps": ["taint"]}
    (folder / "policies.yaml").write_text(yaml.safe_dump({"policies": [policy]}))
    (folder / "kubeconfig").write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "c", "cluster": {"server": api.url}}],
                "users": [{"name": "u", "user": {"token": "t"}}],
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
                "current-context": "c",
            }
        )
    )
    path = folder / "settings.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "policies": ["policies.yaml"],
                "listen": {
                    "host": "127.0.0.1",
                    "port": 0,
                    "webhook_token_files": ["token"],
                    "tls": {"cert_file": "cert.pem", "key_file": "key.pem"},
                },
                "alertmanagers": [{"url": api.url}],
                "prometheus": {"url": api.url},
                "kubernetes": {"kubeconfig": "kubeconfig"},
                "watchdog": {"url_file": "dead-man"},
            }
        )
    )
    return path


TASKS = {
    f"follow {NODES}",
    f"follow {REMEDIATIONS}",
    "follow /api/v1/namespaces/gpuheal/configmaps",
    "election gpuheal-responder",
    "engine",
    "fence",
    "dead man",
    "certificates",
    "stall monitor",
    "garbage collector",
    "listener 0",
    "policies",
}


async def running(api: ApiServer, folder: Path, failed: asyncio.Event) -> subject.App:
    """A started responder in this process."""
    settings = load(write_settings(folder, api))
    made = subject.build(settings, await parts_of(settings))
    await made.start(failed=failed.set)
    return made


async def test_s04_one_token_for_webhook_and_metrics_is_told(api: ApiServer, tmp_path: Path) -> None:
    """In two files, too: whoever scrapes could send alerts. Sites of the first version have it so, and must go on."""
    path = write_settings(tmp_path, api)
    text = yaml.safe_load(path.read_text())
    text["listen"]["metrics_token_files"] = ["scrape"]
    path.write_text(yaml.safe_dump(text))
    for content, told in (("another", 0), ((tmp_path / "token").read_text(), 1)):
        (tmp_path / "scrape").write_text(content)
        audit = io.StringIO()
        made = subject.build(load(path), await parts_of(load(path), audit=audit))
        await made.start()
        assert audit.getvalue().count("the same token opens the webhook and /metrics") == told
        await made.stop()


async def test_every_long_lived_task_is_watched(api: ApiServer, tmp_path: Path) -> None:
    """The supervisor knows every task with a name, and a clean stop is no failure."""
    failed = asyncio.Event()
    app = await running(api, tmp_path, failed)
    named = {task.get_name() for task in asyncio.all_tasks()}
    assert {name for name in named if not name.startswith("Task-")} == TASKS
    assert app.supervisor.names == TASKS
    await app.stop()
    assert not failed.is_set()
    assert app.supervisor.failure == ""


@pytest.mark.parametrize("name", sorted(TASKS))
async def test_whichever_task_ends_is_told(api: ApiServer, tmp_path: Path, name: str) -> None:
    """One task ends by itself: the failure names it, and all others can still be stopped."""
    failed = asyncio.Event()
    app = await running(api, tmp_path, failed)
    (task,) = (task for task in asyncio.all_tasks() if task.get_name() == name)
    task.cancel()
    await asyncio.wait_for(failed.wait(), DEADLINE_S)
    await app.stop()
    assert app.supervisor.failure == f"{name}: was cancelled"
    assert not {task.get_name() for task in asyncio.all_tasks()} & TASKS


async def test_the_process_ends_with_the_reason_when_a_task_breaks(api: ApiServer, tmp_path: Path) -> None:
    """The API server sends what breaks our reading: exit status 1, the reason last in the log, the Lease given back."""
    settings = write_settings(tmp_path, api)
    api.items[NODES] = [
        {"metadata": {"name": "a", "resourceVersion": "1", "labels": {"nvidia.com/gpu.present": "true"}}}
    ]
    process = await asyncio.create_subprocess_exec(
        GPUHEAL, "serve", "--config", str(settings), stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    try:
        _, log = await asyncio.wait_for(process.communicate(), DEADLINE_S)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 1
    last = log.decode().strip().splitlines()[-1]
    assert last.endswith(f"CRITICAL gpuheal: stopping: essential task failed: follow {NODES}: KeyError: 'uid'")
    assert b"Traceback" in log
    assert api.holder() == ""
