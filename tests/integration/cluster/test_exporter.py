"""deploy/kustomize/exporter on a real API server: what is admitted where, and on which nodes the exporter runs."""

from __future__ import annotations

import itertools
import os
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.integration.plane import NODES

from gpuheal_lab.controlplane.kubeapi import ApiRefused
from gpuheal_lab.controlplane.manifests import BASE
from gpuheal_lab.controlplane.plane import ControlPlane
from gpuheal_lab.servers.find import find
from gpuheal_lab.servers.process import run
from gpuheal_lab.servers.stack import wait_for
from gpuheal_responder.actions.taint import UNHEALTHY

pytestmark = pytest.mark.cluster

FOLDER = BASE.parent / "exporter"
CLIENT = "nvidia.com/gpu.deploy.client"
STRICT = "fieldManager=test&fieldValidation=Strict"
COLLECTIONS = {
    "Namespace": "/api/v1/namespaces",
    "ResourceQuota": "/api/v1/namespaces/{namespace}/resourcequotas",
    "ServiceAccount": "/api/v1/namespaces/{namespace}/serviceaccounts",
    "NetworkPolicy": "/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies",
    "DaemonSet": "/apis/apps/v1/namespaces/{namespace}/daemonsets",
}

Json = dict[str, Any]
MakeNodes = Callable[..., list[str]]


def built(folder: Path, kustomization: Json) -> dict[str, Json]:
    """What kubectl makes of an overlay, by kind; `gpuheal/` in it is this repository, and `folder` holds it."""
    folder.mkdir(exist_ok=True)
    (folder / "gpuheal").symlink_to(FOLDER.parents[2])
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization), encoding="utf-8")
    kubectl = find("kubectl")
    made = list(yaml.safe_load_all(run(kubectl.command("kustomize", str(folder), folder=folder), deadline_s=60)))
    found = {each["kind"]: each for each in made}
    assert len(found) == len(made)
    return found


def plain(namespace: str, *components: str) -> Json:
    """An overlay of the base alone, with some of the components."""
    folder = f"gpuheal/{os.path.relpath(FOLDER, FOLDER.parents[2])}"
    kustomization: Json = {"namespace": namespace, "resources": [folder]}
    return {**kustomization, "components": [f"{folder}/{name}" for name in components]}


def readme(name: str) -> str:
    """The README's block marked `<!-- test: NAME -->`."""
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    found = re.search(rf"<!-- test: {name} -->\n```\w+\n(.*?)\n```", text, re.DOTALL)
    assert found, f"no block marked {name}"
    return found[1]


def from_readme(namespace: str) -> Json:
    """The overlay that the README shows, for another namespace."""
    return {**yaml.safe_load(readme("overlay")), "namespace": namespace}


def nodes_with_pods(plane: ControlPlane, namespace: str) -> set[str]:
    """Nodes on which a pod of the namespace runs and is not being deleted."""
    items = plane.admin.get(f"/api/v1/namespaces/{namespace}/pods")["items"]
    running = [each for each in items if each["status"]["phase"] == "Running"]
    return {each["spec"]["nodeName"] for each in running if "deletionTimestamp" not in each["metadata"]}


def test_the_readme_overlay_is_what_it_says(tmp_path: Path) -> None:
    """Image, runtime class, PodMonitor and its label come out as written, all in the overlay's namespace."""
    found = built(tmp_path, from_readme("elsewhere"))
    assert set(found) == {*COLLECTIONS, "PodMonitor"}
    assert {each["metadata"].get("namespace", each["metadata"]["name"]) for each in found.values()} == {"elsewhere"}
    pod = found["DaemonSet"]["spec"]["template"]["spec"]
    assert pod["runtimeClassName"] == "nvidia"
    assert pod["containers"][0]["image"] == "registry.example/gpuheal-exporter:0.1.0"
    assert found["PodMonitor"]["metadata"]["labels"]["release"] == "kube-prometheus-stack"


@pytest.mark.parametrize("components", [(), ("nvidia-runtime",), ("unprivileged",), ("nvidia-runtime", "unprivileged")])
def test_the_api_server_takes_every_object(
    control_plane: ControlPlane, namespace: str, tmp_path: Path, components: tuple[str, ...]
) -> None:
    """With every component, and no field that the API server does not know."""
    found = built(tmp_path, plain(namespace, *components))
    assert set(found) == set(COLLECTIONS)
    for kind, collection in COLLECTIONS.items():
        path = collection.format(namespace=namespace)
        if kind == "Namespace":
            name = found[kind]["metadata"]["name"]
            control_plane.admin.patch(f"{path}/{name}?dryRun=All&{STRICT}", found[kind])
        else:
            control_plane.admin.create(f"{path}?dryRun=All&{STRICT}", found[kind])


def test_the_unprivileged_pod_has_no_host_device(tmp_path: Path) -> None:
    """The component takes the device's mount away, keeps every other, and asks for what the device plugin hands out."""
    usual, less = (
        built(tmp_path / name, plain("ns", *components))["DaemonSet"]["spec"]["template"]["spec"]
        for name, components in (("usual", ()), ("less", ("unprivileged",)))
    )
    assert {each["name"] for each in usual["volumes"]} - {each["name"] for each in less["volumes"]} == {"kmsg"}
    (container,) = less["containers"]
    mounted = {each["name"] for each in container["volumeMounts"]}
    assert mounted == {each["name"] for each in less["volumes"]}
    assert container["resources"]["limits"]["squat.ai/kmsg"] == 1
    security = container["securityContext"]
    assert (security["privileged"], security["allowPrivilegeEscalation"]) == (False, False)
    assert (security["readOnlyRootFilesystem"], security["runAsUser"]) == (True, 0)


def test_the_pod_needs_a_namespace_of_its_own(plane: ControlPlane, tmp_path: Path) -> None:
    """Pod Security refuses it in the responder's namespace, and the one it brings is privileged."""
    found = built(tmp_path, plain("gpuheal-exporter"))
    template = found["DaemonSet"]["spec"]["template"]
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "exporter"},
        "spec": {**template["spec"], "serviceAccountName": "default"},
    }
    with pytest.raises(ApiRefused, match="PodSecurity") as caught:
        plane.admin.create("/api/v1/namespaces/gpuheal/pods?dryRun=All", pod)
    assert caught.value.status == 403
    assert found["Namespace"]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "privileged"


def test_the_readme_lets_prometheus_find_the_exporters(control_plane: ControlPlane, tmp_path: Path) -> None:
    """After its commands the account it names may list and watch nodes and all pods, and still no secret."""
    roles = "/apis/rbac.authorization.k8s.io/v1"
    config = f"--kubeconfig={control_plane.kubeconfig()}"
    made = []
    for command in readme("rights").splitlines():
        program, *words = shlex.split(command)
        assert program == "kubectl"
        run(find("kubectl").command(config, *words, folder=tmp_path), deadline_s=60)
        made.append(f"{roles}/{words[1]}s/{words[2]}")
    namespace, name = words[-1].partition("=")[2].split(":")

    def may(verb: str, resource: str) -> bool:
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {
                "user": f"system:serviceaccount:{namespace}:{name}",
                "resourceAttributes": {"verb": verb, "resource": resource},
            },
        }
        asked = control_plane.admin.create("/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
        return bool(asked["status"]["allowed"])

    for verb, resource in itertools.product(("list", "watch"), ("nodes", "pods")):
        wait_for(lambda verb=verb, resource=resource: may(verb, resource), f"{verb} {resource}")  # type: ignore[misc]
    assert not may("list", "secrets")
    for path in made:
        control_plane.admin.delete(path)


def test_the_exporter_runs_on_gpu_nodes_contained_ones_too(
    control_plane: ControlPlane, namespace: str, make_nodes: MakeNodes, tmp_path: Path
) -> None:
    """It runs where GPUs are, also on a tainted, cordoned node, and leaves while the operator changes the driver."""
    usual, contained = make_nodes(2)
    (managed,) = make_nodes(1, labels={CLIENT: "true"})
    make_nodes(1, labels={CLIENT: "paused-for-driver-upgrade"})
    make_nodes(1, gpus=0)
    taint = {"key": UNHEALTHY.key, "value": UNHEALTHY.value, "effect": UNHEALTHY.effect}
    control_plane.admin.patch(f"{NODES}/{contained}", {"spec": {"unschedulable": True, "taints": [taint]}})
    objects = tmp_path / "objects.yaml"
    found = built(tmp_path / "overlay", plain(namespace))
    objects.write_text(yaml.safe_dump_all(found.values()), encoding="utf-8")
    config = f"--kubeconfig={control_plane.kubeconfig()}"
    run(find("kubectl").command(config, "apply", "--server-side", "-f", str(objects), folder=tmp_path), deadline_s=60)

    def runs_on(*nodes: str) -> None:
        wait_for(lambda: nodes_with_pods(control_plane, namespace) == set(nodes), f"the exporter on {nodes}")

    runs_on(usual, contained, managed)
    for value, nodes in (("paused-for-mig-change", (usual, contained)), ("true", (usual, contained, managed))):
        control_plane.admin.patch(f"{NODES}/{managed}", {"metadata": {"labels": {CLIENT: value}}})
        runs_on(*nodes)
    daemonset = f"{COLLECTIONS['DaemonSet'].format(namespace=namespace)}/gpuheal-exporter"
    status = control_plane.admin.get(daemonset)["status"]
    assert (status["desiredNumberScheduled"], status["numberMisscheduled"]) == (3, 0)
    control_plane.admin.delete(f"{daemonset}?propagationPolicy=Foreground")
    wait_for(lambda: not nodes_with_pods(control_plane, namespace), "the exporter's pods to go")
