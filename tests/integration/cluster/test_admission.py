"""The admission policies on a real API server: what fits is admitted, and each deviation is refused in plain words."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.integration.cluster.admission import IMAGE, JOBS, Json, job, refuses, restrained
from tests.integration.cluster.test_commands import MakeNodes

from gpuheal_lab.controlplane.kubeapi import STRATEGIC, ApiRefused, KubeApi
from gpuheal_lab.controlplane.plane import ControlPlane
from gpuheal_lab.servers.stack import wait_for

pytestmark = pytest.mark.cluster

Change = Callable[[Json], object]
CONFIGMAPS = "/api/v1/namespaces/gpuheal-privileged/configmaps"


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
    return restrained(plane)


def test_s23_the_templates_job_is_admitted(engine: KubeApi) -> None:
    """What the provider makes passes as it is."""
    made = engine.create(JOBS.format(namespace="gpuheal-privileged"), job())
    assert made["metadata"]["name"].startswith("reboot-gpu-1-1-reboot-1-")


MOUNT = {"name": "host", "mountPath": "/host"}
DEVIATIONS: dict[str, tuple[Change, str]] = {
    "another name": (lambda raw: raw["metadata"].update(name="backup"), "name must start with"),
    "two pods": (lambda raw: raw["spec"].update(parallelism=2, completions=2), "a reboot Job must run one pod, once"),
    "tries again": (lambda raw: raw["spec"].update(backoffLimit=3), "a reboot Job must run one pod, once"),
    "no deadline": (lambda raw: raw["spec"].pop("activeDeadlineSeconds"), "deadline of at most 1h"),
    "a day's deadline": (lambda raw: raw["spec"].update(activeDeadlineSeconds=86400), "deadline of at most 1h"),
    "stays for ever": (lambda raw: raw["spec"].pop("ttlSecondsAfterFinished"), "TTL after it finished"),
    "another account": (lambda raw: pod(raw).update(serviceAccountName="default"), "account, namespaces"),
    "with a token": (lambda raw: pod(raw).update(automountServiceAccountToken=True), "account, namespaces"),
    "the host's IPC": (lambda raw: pod(raw).update(hostIPC=True), "account, namespaces"),
    "no node": (lambda raw: pod(raw).pop("nodeName"), "must name its node"),
    "any node": (lambda raw: pod(raw).pop("affinity"), "control-plane nodes"),
    "control planes too": (
        lambda raw: pod(raw)["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][
            "nodeSelectorTerms"
        ].append({"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "Exists"}]}),
        "control-plane nodes",
    ),
    "a host path": (
        lambda raw: (
            pod(raw).update(volumes=[{"name": "host", "hostPath": {"path": "/"}}]),
            container(raw).update(volumeMounts=[MOUNT]),
        ),
        "must not have volumes",
    ),
    "a second container": (lambda raw: pod(raw)["containers"].append({"name": "x", "image": IMAGE}), "one container"),
    "an init container": (
        lambda raw: pod(raw).update(initContainers=[{"name": "x", "image": IMAGE}]),
        "other containers",
    ),
    "a tag": (lambda raw: container(raw).update(image="tools:latest"), "pinned by digest"),
    "another command": (
        lambda raw: container(raw).update(command=["/bin/sh", "-c", "id"]),
        "command must match the template",
    ),
    "one more word": (lambda raw: container(raw)["command"].append("x"), "command must match the template"),
    "the image's command": (lambda raw: container(raw).pop("command"), "command must match the template"),
    "arguments": (lambda raw: container(raw).update(args=["x"]), "must not have arguments"),
    "a hook": (
        lambda raw: container(raw).update(lifecycle={"postStart": {"exec": {"command": ["id"]}}}),
        "must not have arguments, mounts, hooks",
    ),
    "a probe": (
        lambda raw: container(raw).update(livenessProbe={"exec": {"command": ["id"]}}),
        "must not have arguments, mounts, hooks, probes",
    ),
    "one more variable": (
        lambda raw: container(raw)["env"].append({"name": "LD_PRELOAD", "value": "/x"}),
        "plain environment values",
    ),
    "a secret as a value": (
        lambda raw: container(raw)["env"].__setitem__(
            0, {"name": "BOOT_ID", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}
        ),
        "plain environment values",
    ),
    "a secret's variables": (
        lambda raw: container(raw).update(envFrom=[{"secretRef": {"name": "s"}}]),
        "must not have arguments",
    ),
    "a time that is a program": (lambda raw: told(raw, "ASKED_AT", "a[$(id)]"), "plain environment values"),
    "a boot that is a program": (lambda raw: told(raw, "BOOT_ID", "$(id)"), "plain environment values"),
    "another operation": (lambda raw: told(raw, "OPERATION", "reboot-other"), "equal the Job's name"),
    "a time far ahead": (lambda raw: told(raw, "EXPIRES_AT", "99999999999"), "for at most 1h"),
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
                return "differs from the one in ConfigMap" in str(refusal)
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
        ({"spec": {"taints": None}}, "only taints of"),
        ({"spec": {"taints": [*TAINTS, {"key": "x", "effect": "NoSchedule"}]}}, "only taints of"),
        ({"spec": {"taints": [{**TAINTS[0], "value": "b"}]}}, "only taints of"),
        ({"metadata": {"annotations": {"team": "b"}}}, "only annotations of"),
        ({"metadata": {"annotations": {"team": None}}}, "only annotations of"),
        ({"metadata": {"annotations": {"csi.volume.kubernetes.io/nodeid": "x"}}}, "only annotations of"),
        ({"metadata": {"labels": {"node-role.kubernetes.io/control-plane": ""}}}, "only labels of"),
        ({"metadata": {"labels": {"team": None}}}, "only labels of"),
        ({"metadata": {"finalizers": ["gpu.health/x"]}}, "not change finalizers"),
        ({"spec": {"podCIDR": "10.9.0.0/24", "podCIDRs": ["10.9.0.0/24"]}}, "only taints and unschedulable"),
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
        ({"conditions": [{"type": "Ready", "status": "False"}]}, "only its own conditions"),
        ({"conditions": [{"type": "Ready", "$patch": "delete"}]}, "only its own conditions"),
        ({"conditions": [{"type": "KernelDeadlock", "status": "True"}]}, "only its own conditions"),
        ({"capacity": {"nvidia.com/gpu": "0"}}, "may change only conditions"),
        ({"nodeInfo": {"bootID": "x"}}, "may change only conditions"),
    ],
)
def test_s18_nothing_else_of_a_nodes_status_either(engine: KubeApi, node: str, change: Json, words: str) -> None:
    """What the kubelet says of its node stays what the kubelet said."""
    path = f"/api/v1/nodes/{node}/status"
    refuses(lambda: engine.patch(path, {"status": change}, STRATEGIC), "gpuheal-node-marks", words)
