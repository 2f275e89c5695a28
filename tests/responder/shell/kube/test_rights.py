"""The rights that adapters declare are those that they use: none is missing, none is left over."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from tests.responder.shell.scripted import StillClock

from gpuheal_responder.core.case import Case
from gpuheal_responder.core.history import History
from gpuheal_responder.core.mode import Mode
from gpuheal_responder.core.node import Condition, Node, Pod
from gpuheal_responder.core.undo import Marks
from gpuheal_responder.core.verdict import Escalate
from gpuheal_responder.core.world import World
from gpuheal_responder.ports import Note
from gpuheal_responder.providers.job import JobReboot, JobSettings
from gpuheal_responder.shell.kube.api import Api, ApiError
from gpuheal_responder.shell.kube.cluster import KubeCluster
from gpuheal_responder.shell.kube.controls import KubeControls
from gpuheal_responder.shell.kube.election import Election
from gpuheal_responder.shell.kube.histories import KubeHistories
from gpuheal_responder.shell.kube.jobs import KubeJobs
from gpuheal_responder.shell.kube.remediations import KubeRemediations
from gpuheal_responder.shell.kube.review import SEE, KubePeople, KubeReviewer
from gpuheal_responder.shell.kube.roles import rights
from gpuheal_responder.shell.record import decision
from gpuheal_responder.shell.sources.deadman import Pipeline

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
NODE = Node(name="n", uid="u", resource_version="1", boot_id="b")
Used = tuple[str, str, str, str, str]
VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete", "GET": "get"}
PATH = re.compile(
    r"/(?:api/v1|apis/(?P<group>[^/]+)/[^/]+)(?:/namespaces/(?P<namespace>[^/]+))?/(?P<kind>[^/]+)"
    r"(?:/(?P<name>[^/]+))?(?:/(?P<sub>[^/]+))?"
)


class Recorder:
    """An API server that does whatever it is asked, and remembers which rights that took.

    What was never created is not found; what was created is there.
    """

    def __init__(self) -> None:
        self.used: set[Used] = set()
        self.made: set[str] = set()

    def _use(self, method: str, path: str, verb: str = "") -> str:
        found = PATH.fullmatch(path)
        assert found is not None, path
        kind = f"{found['kind']}/{found['sub']}" if found["sub"] else found["kind"]
        name = found["name"] or ""
        verb = verb or ("list" if method == "GET" and not name else VERBS[method])
        self.used.add((found["group"] or "", kind, verb, found["namespace"] or "", name))
        return name

    async def get(self, path: str, query: Mapping[str, object] | None = None, **_: object) -> Any:
        """One object, or a list."""
        return await self.call("GET", path)

    async def call(self, method: str, path: str, *, body: Mapping[str, Any] | None = None, **_: object) -> Any:
        """One request."""
        name = self._use(method, path)
        told = (body or {}).get("metadata", {}) if isinstance(body, dict) else {}
        if method == "POST" and not path.endswith("reviews") and told.get("name"):
            if f"{path}/{told['name']}" in self.made:
                raise ApiError(409, "AlreadyExists", "exists")
            self.made.add(f"{path}/{told['name']}")
        if method == "GET" and name and "nodes" not in path and path not in self.made:
            raise ApiError(404, "NotFound", "not found")
        meta = {"name": name, "uid": "u", "resourceVersion": "1", "namespace": "x"}
        spec = {"holderIdentity": "gpuheal"}
        status = {"authenticated": True, "allowed": True, "user": {"username": "ann"}}
        return {"metadata": meta, "items": [], "spec": spec, "status": status, "data": {}}

    async def lines(self, path: str, **_: object) -> AsyncIterator[bytes]:
        """A watch that says nothing."""
        self._use("GET", path, "watch")
        yield b""
        await asyncio.Event().wait()


async def play(api: Api) -> None:
    """Use every adapter as the responder does."""
    clock = StillClock()
    cluster, cases = KubeCluster(api, clock), KubeRemediations(api)
    histories = KubeHistories(api, clock, "gpuheal")
    for follower in (cluster, cases, histories):
        follower.start()
        await follower.mirror.wait_synced(timedelta(seconds=5))
        await asyncio.sleep(0.01)
    await cluster.node("n")
    await cluster.pods_on("n")
    await cluster.mark(NODE, Marks(taints=(), unschedulable=True, undo=None))
    await cluster.set_conditions(NODE, [Condition(type="GPUHealthy", status="False")], ())
    await cluster.evict(Pod(namespace="ml", name="p", uid="u"))
    for _ in range(2):
        await cluster.publish(Note(node="n", reason="r", message="m"))
    for _ in range(2):
        await cluster.lock(NODE, timedelta(minutes=1))
    await cluster.unlock("n")
    case = Case(name="n-1", node="n", opened_at=NOW, policy="p")
    record = decision(NOW, Escalate(reason="x", message="m"), World(now=NOW, node=NODE), case, None)
    stored = await cases.create(case, record)
    await cases.save(stored, None)
    await cases.decisions("n-1")
    await cases.delete("n-1")
    await histories.save(History(machine="s-1"))
    await histories.save(History(machine="s-1"))
    election = Election(api, clock, namespace="gpuheal", name="gpuheal-responder", identity="gpuheal")
    for _ in range(2):
        await election.campaign()
    pipeline = cast("Pipeline", type("Well", (), {"frozen": staticmethod(_well)}))
    await KubeControls(
        api=api, namespace="gpuheal", name="gpuheal-controls", mode=Mode.OBSERVE, pipeline=pipeline
    ).controls()
    await KubePeople(reviewer=KubeReviewer(api), clock=clock).admit("token", SEE)
    provider = JobReboot(JobSettings(image="tools@sha256:" + "0" * 64), KubeJobs(api), clock)
    await provider.reboot(NODE, "op")
    await provider.lookup(NODE, "op")
    await provider.withdraw(NODE, "op")
    for follower in (cluster, cases, histories):
        await follower.stop()


async def _well() -> str:
    return ""


def declared() -> set[Used]:
    """What the roles give, one right at a time."""
    return {
        (right.group, kind, verb, right.namespace, name)
        for right in rights()
        for kind in right.resources
        for verb in right.verbs
        for name in right.names or ("*",)
    }


def covers(given: Used, used: Used) -> bool:
    """Whether a right allows a request."""
    return given[:3] == used[:3] and given[3] in ("", used[3]) and given[4] in ("*", used[4])


@pytest.mark.parametrize("direction", ["enough", "no more"])
async def test_s23_adapters_declare_what_they_use(direction: str) -> None:
    """Each request is allowed by a declared right, and each declared right is used by a request."""
    recorder = Recorder()
    async with asyncio.timeout(30):
        await play(cast("Api", recorder))
    given = declared()
    if direction == "enough":
        assert {used for used in recorder.used if not any(covers(right, used) for right in given)} == set()
    else:
        assert {right for right in given if not any(covers(right, used) for used in recorder.used)} == set()
