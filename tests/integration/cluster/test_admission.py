"""The admission policies on a real API server: what fits is admitted, and each deviation is refused in plain words."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.integration.cluster.test_commands import BINDINGS, MakeNodes

from gpuheal_lab.controlplane.kubeapi import STRATEGIC, ApiRefused, KubeApi
from gpuheal_lab.controlplane.plane import ControlPlane
from gpuheal_lab.servers.stack import wait_for
from gpuheal_responder.core.node import Node
from gpuheal_responder.providers.job import JobSettings, manifest

pytestmark = pytest.mark.cluster

Json = dict[str, Any]
Change = Callable[[Json], object]
CASES = "/apis/gpu.health/v1alpha1/remediations"
JOBS = "/apis/batch/v1/namespaces/{namespace}/jobs?dryRun=All"
ROLES = "/apis/rbac.authorization.k8s.io/v1/clusterroles"
CONFIGMAPS = "/api/v1/namespaces/gpuheal-privileged/configmaps"
NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
IMAGE = "tools@sha256:" + "0" * 64
DENIED = "ValidatingAdmissionPolicy '{policy}'"


def job(namespace: str = "gpuheal-privileged") -> Json:
    """The reboot Job as the provider makes it."""
    node = Node(name="gpu-1", uid="u", boot_id="5b2f2f0e-7c3f-4b5e-8f4b-1d2c3b4a5968")
    return manifest(node, "gpu-1-1-reboot-1", JobSettings(image=IMAGE, namespace=namespace), NOW)


def pod(raw: Json) -> Json:
    """Its pod."""
    found: Json = raw["spec"]["template"]["spec"]
    return found


def container(raw: Json) -> Json:
    """Its container."""
    found: Json = pod(raw)["containers"][0]
    return found


def told(raw: Json, name: str, value: str) -> None:
    """The pod is told another value."""
    next(e for e in container(raw)["env"] if e["name"] == name)["value"] = value


@pytest.fixture(scope="module")
def engine(plane: ControlPlane) -> KubeApi:
    """The responder's account, once the policies are in force."""
    account = plane.as_service_account("gpuheal", "gpuheal-responder")
    bad = job()
    bad["metadata"]["name"] = "mine"

    def refused() -> bool:
        try:
            account.create(JOBS.format(namespace="gpuheal-privileged"), bad)
        except ApiRefused as refusal:
            return "denied request" in str(refusal)
        return False

    wait_for(refused, "the admission policies to be in force")
    return account


def refuses(call: Callable[[], object], policy: str, words: str) -> None:
    """The call is refused by this policy, with these words."""
    with pytest.raises(ApiRefused) as caught:
        call()
    assert DENIED.format(policy=policy) in str(caught.value)
    assert words in str(caught.value)


def test_s23_the_templates_job_is_admitted(engine: KubeApi) -> None:
    """What the provider makes passes as it is."""
    made = engine.create(JOBS.format(namespace="gpuheal-privileged"), job())
    assert made["metadata"]["name"].startswith("reboot-gpu-1-1-reboot-1-")


MOUNT = {"name": "host", "mountPath": "/host"}
DEVIATIONS: dict[str, tuple[Change, str]] = {
    "another name": (lambda raw: raw["metadata"].update(name="backup"), "name begins with"),
    "two pods": (lambda raw: raw["spec"].update(parallelism=2, completions=2), "one pod, one try"),
    "tries again": (lambda raw: raw["spec"].update(backoffLimit=3), "one pod, one try"),
    "no deadline": (lambda raw: raw["spec"].pop("activeDeadlineSeconds"), "deadline of an hour"),
    "a day's deadline": (lambda raw: raw["spec"].update(activeDeadlineSeconds=86400), "deadline of an hour"),
    "stays for ever": (lambda raw: raw["spec"].pop("ttlSecondsAfterFinished"), "goes by itself"),
    "another account": (lambda raw: pod(raw).update(serviceAccountName="default"), "account, namespaces"),
    "with a token": (lambda raw: pod(raw).update(automountServiceAccountToken=True), "account, namespaces"),
    "the host's IPC": (lambda raw: pod(raw).update(hostIPC=True), "account, namespaces"),
    "no node": (lambda raw: pod(raw).pop("nodeName"), "names its node"),
    "any node": (lambda raw: pod(raw).pop("affinity"), "control plane"),
    "control planes too": (
        lambda raw: pod(raw)["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][
            "nodeSelectorTerms"
        ].append({"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "Exists"}]}),
        "control plane",
    ),
    "a host path": (
        lambda raw: (
            pod(raw).update(volumes=[{"name": "host", "hostPath": {"path": "/"}}]),
            container(raw).update(volumeMounts=[MOUNT]),
        ),
        "no volumes",
    ),
    "a second container": (lambda raw: pod(raw)["containers"].append({"name": "x", "image": IMAGE}), "one container"),
    "an init container": (
        lambda raw: pod(raw).update(initContainers=[{"name": "x", "image": IMAGE}]),
        "no other containers",
    ),
    "a tag": (lambda raw: container(raw).update(image="tools:latest"), "pinned by digest"),
    "another command": (
        lambda raw: container(raw).update(command=["/bin/sh", "-c", "id"]),
        "command is the template's",
    ),
    "one more word": (lambda raw: container(raw)["command"].append("x"), "command is the template's"),
    "the image's command": (lambda raw: container(raw).pop("command"), "command is the template's"),
    "arguments": (lambda raw: container(raw).update(args=["x"]), "no arguments"),
    "a hook": (
        lambda raw: container(raw).update(lifecycle={"postStart": {"exec": {"command": ["id"]}}}),
        "no arguments, mounts, hooks",
    ),
    "a probe": (
        lambda raw: container(raw).update(livenessProbe={"exec": {"command": ["id"]}}),
        "no arguments, mounts, hooks, probes",
    ),
    "one more variable": (
        lambda raw: container(raw)["env"].append({"name": "LD_PRELOAD", "value": "/x"}),
        "as plain values",
    ),
    "a secret as a value": (
        lambda raw: container(raw)["env"].__setitem__(
            0, {"name": "BOOT_ID", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}
        ),
        "as plain values",
    ),
    "a secret's variables": (
        lambda raw: container(raw).update(envFrom=[{"secretRef": {"name": "s"}}]),
        "no arguments",
    ),
    "a time that is a program": (lambda raw: told(raw, "ASKED_AT", "a[$(id)]"), "as plain values"),
    "a boot that is a program": (lambda raw: told(raw, "BOOT_ID", "$(id)"), "as plain values"),
    "another operation": (lambda raw: told(raw, "OPERATION", "reboot-other"), "the Job's own"),
    "a time far ahead": (lambda raw: told(raw, "EXPIRES_AT", "99999999999"), "an hour at most"),
}


@pytest.mark.parametrize("name", sorted(DEVIATIONS))
def test_s23_each_deviation_from_the_template_is_refused(engine: KubeApi, name: str) -> None:
    """Whoever has our account can reboot a GPU node, and start nothing else with privileges."""
    change, words = DEVIATIONS[name]
    raw = job()
    change(raw)
    refuses(lambda: engine.create(JOBS.format(namespace="gpuheal-privileged"), raw), "gpuheal-reboot-jobs", words)


def test_s23_other_namespaces_and_other_people_are_as_before(
    plane: ControlPlane, engine: KubeApi, namespace: str
) -> None:
    """Our account gets no further where a role was given too widely; Jobs of others are nobody's business here."""
    plane.admin.create(JOBS.format(namespace=namespace), job(namespace))
    backup = job()
    backup["metadata"]["name"] = "backup"
    plane.admin.create(JOBS.format(namespace="gpuheal-privileged"), backup)
    role = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/rolebindings"
    edit = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit"}
    who = {"kind": "ServiceAccount", "name": "gpuheal-responder", "namespace": "gpuheal"}
    plane.admin.create(role, {"metadata": {"name": "too-much"}, "roleRef": edit, "subjects": [who]})

    def reached() -> bool:
        try:
            engine.create(JOBS.format(namespace=namespace), job(namespace))
        except ApiRefused as refusal:
            return "denied request" in str(refusal)
        raise AssertionError("admitted")

    wait_for(reached, "the role to be in force")
    refuses(lambda: engine.create(JOBS.format(namespace=namespace), job(namespace)), "gpuheal-reboot-jobs", "only")


def test_s23_a_site_can_bind_the_image(plane: ControlPlane, engine: KubeApi) -> None:
    """With the ConfigMap another image, pinned or not, is refused; without it any pinned one is admitted."""
    path = JOBS.format(namespace="gpuheal-privileged")
    plane.admin.create(
        CONFIGMAPS, {"metadata": {"name": "gpuheal-reboot-image"}, "data": {"image": "other@sha256:" + "1" * 64}}
    )
    try:

        def refused() -> bool:
            try:
                engine.create(path, job())
            except ApiRefused as refusal:
                return "not the one in ConfigMap" in str(refusal)
            return False

        wait_for(refused, "the image to be bound")
        change = {"data": {"image": IMAGE}}
        plane.admin.patch(f"{CONFIGMAPS}/gpuheal-reboot-image", change)

        def admitted() -> bool:
            return not refused()

        wait_for(admitted, "the other image to be admitted")
    finally:
        plane.admin.delete(f"{CONFIGMAPS}/gpuheal-reboot-image")


def test_s17_settings_and_controls_are_peoples(plane: ControlPlane, engine: KubeApi) -> None:
    """The role cannot tell one ConfigMap from another when they are created; the policy can."""
    path = "/api/v1/namespaces/gpuheal/configmaps"
    engine.create(f"{path}?dryRun=All", {"metadata": {"name": "gpuheal-history-01"}})
    refuses(lambda: engine.create(path, {"metadata": {"name": "gpuheal-controls"}}), "gpuheal-histories", "only")
    plane.admin.create(path, {"metadata": {"name": "gpuheal-controls"}, "data": {"paused": "ann"}})
    change = {"data": {"paused": ""}}
    refuses(lambda: engine.patch(f"{path}/gpuheal-controls", change), "gpuheal-histories", "only")
    plane.admin.delete(f"{path}/gpuheal-controls")


TAINTS = [
    {"key": "team", "value": "a", "effect": "NoSchedule"},
    {"key": "gpu.health/unhealthy", "value": "x", "effect": "NoSchedule"},
]


@pytest.fixture
def node(make_nodes: MakeNodes, plane: ControlPlane) -> str:
    """A node with a taint, a label and an annotation of others."""
    (name,) = make_nodes(1)
    mine = {"labels": {"team": "a"}, "annotations": {"team": "a"}}
    plane.admin.patch(f"/api/v1/nodes/{name}", {"metadata": mine, "spec": {"taints": TAINTS[:1]}})
    return name


def marked(engine: KubeApi, node: str, change: Json, *ours: Json) -> Json:
    """The node after a change at its version, with these taints of ours beside those of others."""
    path = f"/api/v1/nodes/{node}"
    last = Json()

    def written() -> bool:
        raw = engine.get(path)
        others = [t for t in raw["spec"].get("taints", ()) if not t["key"].startswith("gpu.health/")]
        version = {"resourceVersion": raw["metadata"]["resourceVersion"]}
        body = {"metadata": change["metadata"] | version, "spec": change["spec"] | {"taints": [*others, *ours]}}
        try:
            last.update(engine.patch(path, body))
        except ApiRefused as refusal:
            if refusal.status != 409:
                raise
        return bool(last)

    wait_for(written, "nobody to write the node in between")
    return last


def test_s18_our_marks_are_admitted(engine: KubeApi, node: str) -> None:
    """Taint, cordon, annotations, labels and conditions of ours go on and come off again."""
    path = f"/api/v1/nodes/{node}"
    ours = {"gpu.health/undo": "{}", "gpu.health/hold": "ann: rack work"}
    marked(engine, node, {"metadata": {"annotations": ours}, "spec": {"unschedulable": True}}, TAINTS[1])
    engine.patch(path, {"metadata": {"labels": {"gpu.health/state": "x"}}})
    conditions = [{"type": kind, "status": "False", "reason": "X"} for kind in ("GPUHealthy", "NVLinkHealthy")]
    engine.patch(f"{path}/status", {"status": {"conditions": conditions}}, STRATEGIC)
    gone = [{"type": "GPUHealthy", "$patch": "delete"}]
    engine.patch(f"{path}/status", {"status": {"conditions": gone}}, STRATEGIC)
    off = dict.fromkeys((*ours, "gpu.health/state"))
    change = {"metadata": {"annotations": off, "labels": off}, "spec": {"unschedulable": None}}
    last = marked(engine, node, change)
    assert TAINTS[0] in last["spec"]["taints"]
    assert TAINTS[1] not in last["spec"]["taints"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"spec": {"taints": None}}, "no taint but"),
        ({"spec": {"taints": [*TAINTS, {"key": "x", "effect": "NoSchedule"}]}}, "no taint but"),
        ({"spec": {"taints": [{**TAINTS[0], "value": "b"}]}}, "no taint but"),
        ({"metadata": {"annotations": {"team": "b"}}}, "no annotation but"),
        ({"metadata": {"annotations": {"team": None}}}, "no annotation but"),
        ({"metadata": {"annotations": {"csi.volume.kubernetes.io/nodeid": "x"}}}, "no annotation but"),
        ({"metadata": {"labels": {"node-role.kubernetes.io/control-plane": ""}}}, "no label but"),
        ({"metadata": {"labels": {"team": None}}}, "no label but"),
        ({"metadata": {"finalizers": ["gpu.health/x"]}}, "no finalizer"),
        ({"spec": {"podCIDR": "10.9.0.0/24", "podCIDRs": ["10.9.0.0/24"]}}, "taints and the cordon only"),
    ],
)
def test_s18_nothing_else_of_a_node_is_ours_to_change(
    plane: ControlPlane, engine: KubeApi, node: str, change: Json, words: str
) -> None:
    """A taken-over responder can't open a node to others' pods, make it a control plane or cut its ties."""
    refuses(lambda: engine.patch(f"/api/v1/nodes/{node}", change), "gpuheal-node-marks", words)
    plane.admin.patch(f"/api/v1/nodes/{node}?dryRun=All", change)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"conditions": [{"type": "Ready", "status": "False"}]}, "no condition but"),
        ({"conditions": [{"type": "Ready", "$patch": "delete"}]}, "no condition but"),
        ({"conditions": [{"type": "KernelDeadlock", "status": "True"}]}, "no condition but"),
        ({"capacity": {"nvidia.com/gpu": "0"}}, "conditions only"),
        ({"nodeInfo": {"bootID": "x"}}, "conditions only"),
    ],
)
def test_s18_nothing_else_of_a_nodes_status_either(engine: KubeApi, node: str, change: Json, words: str) -> None:
    """What the kubelet says of its node stays what the kubelet said."""
    path = f"/api/v1/nodes/{node}/status"
    refuses(lambda: engine.patch(path, {"status": change}, STRATEGIC), "gpuheal-node-marks", words)


@pytest.fixture(scope="module")
def people(plane: ControlPlane) -> Iterator[dict[str, KubeApi]]:
    """Ann may approve; bob may write Remediations and their status but was not given approving."""
    rules = [
        {
            "apiGroups": ["gpu.health"],
            "resources": ["remediations", "remediations/status"],
            "verbs": ["get", "create", "patch", "update"],
        }
    ]
    plane.admin.create(ROLES, {"metadata": {"name": "writes-cases"}, "rules": rules})
    given = {"ann": ["gpuheal-approver"], "bob": ["writes-cases"]}
    names = []
    for user, roles in given.items():
        for role in roles:
            names.append(f"{user}-{role}")
            ref = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role}
            who = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}
            plane.admin.create(BINDINGS, {"metadata": {"name": names[-1]}, "roleRef": ref, "subjects": [who]})
    yield {user: KubeApi(plane.url, plane.ca_file, plane.tokens[user]) for user in given}
    for name in names:
        plane.admin.delete(f"{BINDINGS}/{name}")
    plane.admin.delete(f"{ROLES}/writes-cases")


@pytest.fixture
def case(engine: KubeApi) -> Iterator[str]:
    """The path of an open case."""
    spec = {"node": "gpu-1", "policy": "p", "openedAt": "2026-01-31T12:00:00Z"}
    raw = {"apiVersion": "gpu.health/v1alpha1", "kind": "Remediation", "metadata": {"name": "admitted"}, "spec": spec}
    engine.create(CASES, raw)
    yield f"{CASES}/admitted"
    engine.delete(f"{CASES}/admitted")


def yes(by: str, **changes: str) -> Json:
    """An approval."""
    given = {"step": "reboot", "evidence": "0123456789ab", "by": by, "expiresAt": "2026-01-31T13:00:00Z"}
    return {**given, **changes}


def give(api: KubeApi, case: str, *approvals: Json) -> Callable[[], Json]:
    """Writing these approvals."""
    return lambda: api.patch(case, {"spec": {"approvals": copy.deepcopy(list(approvals))}})


def test_s17_who_approved_is_who_asked(
    plane: ControlPlane, engine: KubeApi, people: dict[str, KubeApi], case: str
) -> None:
    """In one's own name, on evidence, with the right to; not even an administrator approves as somebody else."""
    ann, bob = people["ann"], people["bob"]
    wait_for(give(ann, case, yes("ann")), "ann's role to be in force")
    policy = "gpuheal-cases"
    refuses(give(ann, case, yes("ann"), yes("bob")), policy, "in one's own name")
    refuses(give(plane.admin, case, yes("ann", step="drain")), policy, "in one's own name")
    refuses(give(ann, case, yes("ann", evidence="anything")), policy, "12 hexadecimal digits")
    refuses(give(bob, case, yes("ann"), yes("bob")), policy, "remediations/approve")
    give(bob, case)()  # taking one back lets less happen
    give(plane.admin, case, yes("admin"))()
    give(ann, case, yes("admin"), yes("ann"))()
    forged = {"spec": {"node": "n", "policy": "p", "openedAt": "2026-01-31T12:00:00Z", "approvals": [yes("ann")]}}
    raw = {"apiVersion": "gpu.health/v1alpha1", "kind": "Remediation", "metadata": {"name": "forged"}, **forged}
    for api in (engine, bob, plane.admin):
        refuses(lambda api=api: api.create(CASES, raw), policy, "in one's own name")  # type: ignore[misc]


def test_s17_our_account_alone_writes_what_was_done(
    plane: ControlPlane, engine: KubeApi, people: dict[str, KubeApi], case: str
) -> None:
    """A drain that nobody did cannot be written into a case, whatever roles somebody has."""
    done = {"step": "drain", "action": "drain", "operation": "x", "state": "running"}
    forged = {"status": {"attempts": [{**done, "startedAt": "2026-01-31T12:00:00Z"}]}}
    for api in (plane.admin, people["bob"]):
        refuses(lambda api=api: api.patch(f"{case}/status", forged), "gpuheal-cases", "responder alone")  # type: ignore[misc]
    engine.patch(f"{case}/status", forged)
    plane.admin.patch(case, {"status": {"attempts": []}, "spec": {"approvals": []}})
    assert plane.admin.get(case)["status"]["attempts"][0]["step"] == "drain"
    role = {
        "metadata": {"name": "too-much"},
        "rules": [{"apiGroups": ["gpu.health"], "resources": ["remediations"], "verbs": ["patch"]}],
    }
    plane.admin.create(ROLES, role)
    ref = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "too-much"}
    who = {"kind": "ServiceAccount", "name": "gpuheal-responder", "namespace": "gpuheal"}
    plane.admin.create(BINDINGS, {"metadata": {"name": "too-much"}, "roleRef": ref, "subjects": [who]})
    try:

        def reached() -> bool:
            try:
                give(engine, case, yes("ann"))()
            except ApiRefused as refusal:
                return "denied request" in str(refusal)
            raise AssertionError("admitted")

        wait_for(reached, "the role to be in force")
        refuses(lambda: engine.patch(case, {"metadata": {"labels": {"x": "y"}}}), "gpuheal-cases", "does not write")
    finally:
        plane.admin.delete(f"{BINDINGS}/too-much")
        plane.admin.delete(f"{ROLES}/too-much")
