"""People's commands and people's tokens on a real API server with RBAC."""

from __future__ import annotations

import asyncio
import copy
import io
import json
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from tests.integration.plane import Eventually, WallClock

from gpuheal_lab.controlplane.plane import ControlPlane
from gpuheal_responder import cli
from gpuheal_responder.config.settings import Listen
from gpuheal_responder.core.case import Case
from gpuheal_responder.core.node import Condition, Taint, UndoRecord
from gpuheal_responder.core.undo import HOLD_ANNOTATION, UNDO_ANNOTATION, conditioned, cordoned, mark, tainted
from gpuheal_responder.shell.http import server
from gpuheal_responder.shell.http.admission import Admission
from gpuheal_responder.shell.http.approval import KubeHolds
from gpuheal_responder.shell.http.people import CaseApi
from gpuheal_responder.shell.http.webhook import Intake, Web
from gpuheal_responder.shell.kube.api import Api
from gpuheal_responder.shell.kube.cluster import KubeCluster
from gpuheal_responder.shell.kube.remediations import KubeRemediations
from gpuheal_responder.shell.kube.review import APPROVE, SCRAPE, SEE, Denial, KubePeople, KubeReviewer, Person
from gpuheal_responder.shell.telemetry import Telemetry

pytestmark = pytest.mark.cluster

MakeNodes = Callable[..., list[str]]
EVIDENCE = "0123456789ab"
BINDINGS = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings"
OURS = Taint(key="gpu.health/unhealthy", value="true")


async def gpuheal(*args: object) -> tuple[int, str, str]:
    """Run a command line in a thread (it runs a loop of its own); return status, stdout, stderr."""
    out, err = io.StringIO(), io.StringIO()

    def call() -> int:
        with redirect_stdout(out), redirect_stderr(err):
            return cli.main([str(arg) for arg in args])

    return await asyncio.to_thread(call), out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def approver(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file with the token of an account that has the ClusterRole gpuheal-approver and nothing else."""
    plane.admin.create(
        "/api/v1/namespaces/gpuheal/serviceaccounts",
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "ada", "namespace": "gpuheal"}},
    )
    plane.admin.create(
        BINDINGS,
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "ada-approves"},
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io",
                "kind": "ClusterRole",
                "name": "gpuheal-approver",
            },
            "subjects": [{"kind": "ServiceAccount", "name": "ada", "namespace": "gpuheal"}],
        },
    )
    path = tmp_path_factory.mktemp("ada") / "token"
    path.write_text(plane.service_account_token("gpuheal", "ada"))
    yield path
    plane.admin.delete(f"{BINDINGS}/ada-approves")
    plane.admin.delete("/api/v1/namespaces/gpuheal/serviceaccounts/ada")


@pytest.fixture
async def contained(
    cluster: KubeCluster, remediations: KubeRemediations, make_nodes: MakeNodes, plane: ControlPlane
) -> tuple[str, dict[str, Any]]:
    """A contained node with an open case; gives its name and what it was before."""
    (name,) = await asyncio.to_thread(make_nodes, 1)
    before = essence(await asyncio.to_thread(plane.node, name))
    node = await cluster.node(name)
    assert node is not None
    record = UndoRecord(
        case=f"{name}-1",
        owner="gpuheal",
        at=WallClock().now(),
        policy="p",
        faults=("gpu-fell-off-bus",),
        changes=(tainted(OURS), cordoned(), conditioned("GPUHealthy", None)),
    )
    marked = await cluster.mark(node, mark(node, record))
    await cluster.set_conditions(marked, [Condition(type="GPUHealthy", status="False", reason="GpuFellOffBus")], ())
    case = Case(name=f"{name}-1", node=name, opened_at=WallClock().now(), policy="p", node_uid=node.uid)
    verdict = {"verdict": "hold", "step": "drain", "reason": "approval-needed"}
    await remediations.create(case, {"at": WallClock().now().isoformat(), "state": "held", "verdict": verdict})
    return name, before


def essence(raw: dict[str, Any]) -> dict[str, Any]:
    """A node without what the API server and the kubelet change by themselves."""
    kept = copy.deepcopy(raw)
    for key in ("resourceVersion", "managedFields"):
        kept["metadata"].pop(key, None)
    conditions = {c["type"]: (c["status"], c.get("reason")) for c in kept["status"]["conditions"]}
    return {"metadata": kept["metadata"], "spec": kept["spec"], "conditions": conditions}


async def test_s04_real_reviews_tell_who_may(api: Api, plane: ControlPlane, approver: Path) -> None:
    """The responder's rights do for it: an approver may approve and see, not scrape; a forged token is 401."""
    people = KubePeople(reviewer=KubeReviewer(api), clock=WallClock())
    ada = await asyncio.to_thread(approver.read_text)
    assert await people.admit(ada, APPROVE, "n1-1") == Person(name="system:serviceaccount:gpuheal:ada")
    assert isinstance(await people.admit(ada, SEE), Person)
    for token, permission, status in (
        (ada, SCRAPE, 403),
        (plane.tokens["nobody"], APPROVE, 403),
        (ada[:-4] + "AAAA", APPROVE, 401),
        ("forged", APPROVE, 401),
    ):
        found = await people.admit(token, permission)
        assert isinstance(found, Denial)
        assert found.status == status


async def test_cases_are_listed(plane: ControlPlane, contained: tuple[str, dict[str, Any]]) -> None:
    """The table has the case with its state; --json has it in full."""
    name, _ = contained
    config = plane.kubeconfig()
    status, out, _ = await gpuheal("cases", "--kubeconfig", config)
    assert status == 0
    assert f"{name}-1" in out
    assert "held" in out
    _, out, _ = await gpuheal("cases", "--json", "--kubeconfig", config)
    assert any(json.loads(line)["name"] == f"{name}-1" for line in out.splitlines())


async def test_approve_stores_who_and_what(
    plane: ControlPlane,
    contained: tuple[str, dict[str, Any]],
    remediations: KubeRemediations,
    eventually: Eventually,
) -> None:
    """An administrator approves through the API server; somebody without rights does not."""
    name, _ = contained
    args = ("approve", name, "--step", "drain", "--evidence", EVIDENCE, "--for", "30m", "--kubeconfig")
    status, _, err = await gpuheal(*args, plane.kubeconfig("nobody"))
    assert status == 1
    assert "forbidden" in err.lower()
    status, out, _ = await gpuheal(*args, plane.kubeconfig())
    assert status == 0
    assert out.startswith(f"{name}-1: drain approved by admin until ")

    async def arrived() -> list[str]:
        stored = next(s for s in await remediations.list() if s.case.node == name)
        return [f"{a.step} {a.evidence} {a.by}" for a in stored.case.approvals]

    assert await eventually(arrived, "the approval") == [f"drain {EVIDENCE} admin"]


async def test_hold_and_release(plane: ControlPlane, contained: tuple[str, dict[str, Any]]) -> None:
    """The annotation says who and why, and goes again; a node that doesn't exist is told."""
    name, _ = contained
    config = plane.kubeconfig()
    status, out, _ = await gpuheal("hold", name, "--reason", "debugging", "--kubeconfig", config)
    assert (status, out) == (0, f"{name}: held (admin: debugging)\n")
    annotations = (await asyncio.to_thread(plane.node, name))["metadata"]["annotations"]
    assert annotations[HOLD_ANNOTATION] == "admin: debugging"
    await gpuheal("hold", name, "--release", "--kubeconfig", config)
    assert HOLD_ANNOTATION not in (await asyncio.to_thread(plane.node, name))["metadata"]["annotations"]
    status, _, err = await gpuheal("hold", "no-such-node", "--kubeconfig", config)
    assert status == 1
    assert "not found" in err


async def test_an_approver_acts_through_the_responder(
    plane: ControlPlane,
    api: Api,
    contained: tuple[str, dict[str, Any]],
    remediations: KubeRemediations,
    approver: Path,
) -> None:
    """An approver approves and holds with their own token; the approval is written as them, the hold by us."""
    name, _ = contained
    clock, audit = WallClock(), io.StringIO()
    people = KubePeople(reviewer=KubeReviewer(api), clock=clock)
    telemetry = Telemetry(cluster="", clock=clock, audit=audit)
    asked = Admission(people)
    intake = Intake(wake=lambda: None, refusing=str, unready=str, telemetry=telemetry, admission=asked)
    cases = CaseApi(admission=asked, remediations=remediations, holds=KubeHolds(api), telemetry=telemetry, clock=clock)
    listen = Listen(host="127.0.0.1", port=0, webhook_token_files=(approver,))
    app = server.application(Web(intake), cases)
    async with server.listening(app, listen, lambda problem: None) as (host, port):
        through = ("--server", f"http://{host}:{port}", "--token-file", approver)
        status, out, err = await gpuheal("approve", name, "--step", "drain", "--evidence", EVIDENCE, *through)
        assert (status, err) == (0, "")
        assert out == f"{name}-1: drain approved by system:serviceaccount:gpuheal:ada\n"
        status, out, _ = await gpuheal("hold", name, "--reason", "wait", *through)
        assert status == 0
        status, _, err = await gpuheal("approve", "n9-1", "--step", "drain", "--evidence", EVIDENCE, *through)
        assert status == 1
        assert "answered 404: no case named 'n9-1'" in err
    stored = next(s for s in await remediations.list() if s.case.node == name)
    assert [a.by for a in stored.case.approvals] == ["system:serviceaccount:gpuheal:ada"]
    events = [json.loads(line)["event"] for line in audit.getvalue().splitlines()]
    assert events == ["approval", "hold"]


async def test_s18_revert_leaves_no_trace(
    plane: ControlPlane,
    contained: tuple[str, dict[str, Any]],
    remediations: KubeRemediations,
    eventually: Eventually,
) -> None:
    """After `revert --all` the node is as it was before containment; a second run finds nothing."""
    name, before = contained
    assert UNDO_ANNOTATION in (await asyncio.to_thread(plane.node, name))["metadata"]["annotations"]
    status, out, err = await gpuheal("revert", "--all", "--kubeconfig", plane.kubeconfig())
    assert (status, err) == (0, "")
    assert f"{name}: taint gpu.health/unhealthy removed, uncordoned, condition GPUHealthy removed" in out

    async def as_before() -> bool:  # Kubernetes takes its own taint of the cordon off a moment later
        return essence(await asyncio.to_thread(plane.node, name)) == before

    await eventually(as_before, "the node to be as before")
    status, out, _ = await gpuheal("revert", "--all", "--kubeconfig", plane.kubeconfig())
    assert (status, out) == (0, "no node has an undo record\n")
    status, _, err = await gpuheal("revert", name, "--kubeconfig", plane.kubeconfig())
    assert status == 1
    assert "no node has an undo record of" in err
