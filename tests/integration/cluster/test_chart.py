"""The Helm chart as the real helm renders it: against kustomize, its schema, and the readers of what it writes."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from gpuheal_lab.chart import render as chart
from gpuheal_lab.servers.find import find
from gpuheal_lab.servers.process import CommandFailed, run
from gpuheal_responder.config.settings import load
from gpuheal_responder.core.policy import Mode
from gpuheal_responder.shell.policies import read_policies

pytestmark = pytest.mark.cluster

Json = dict[str, Any]
Key = tuple[str, str, str]

KEEP = "helm.sh/resource-policy"
IMAGE = f"registry.example/tools@sha256:{'0' * 64}"
EXPORTER = "gpuheal/deploy/kustomize/exporter"
DEVICE_PLUGIN = {"kernelLog": {"access": "device-plugin"}}
NVIDIA = {"nvidia": {"runtimeClassName": "nvidia"}}


def by_key(found: Iterable[Json]) -> dict[Key, Json]:
    """Objects by kind, namespace and name, without what tells Helm to keep one."""
    objects: dict[Key, Json] = {}
    for each in found:
        metadata = each["metadata"]
        annotations = {k: v for k, v in metadata.get("annotations", {}).items() if k != KEEP}
        metadata = {k: v for k, v in metadata.items() if k != "annotations"} | (
            {"annotations": annotations} if annotations else {}
        )
        key = (each["kind"], metadata.get("namespace", ""), metadata["name"])
        assert key not in objects, f"{key} is there twice"
        objects[key] = {**each, "metadata": metadata}
    return objects


def rendered(values: Mapping[str, Any] | None = None, *args: str, namespace: str = "gpuheal") -> dict[Key, Json]:
    """What helm makes of the chart but its rules, which are many and have tests of their own."""
    return by_key(
        chart.objects(chart.render({"rules": {"enabled": False}, **(values or {})}, *args, namespace=namespace))
    )


def kustomized(folder: Path, *components: str) -> dict[Key, Json]:
    """What kubectl makes of responder and exporter, with components of the exporter."""
    resources = [f"{EXPORTER}", f"{EXPORTER}/podmonitor"]
    overlay = {
        "namespace": "gpuheal-exporter",
        "resources": resources,
        "components": [f"{EXPORTER}/{name}" for name in components],
    }
    (folder / "gpuheal").symlink_to(chart.ROOT)
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(overlay), encoding="utf-8")
    kubectl = find("kubectl")
    made = [
        run(kubectl.command("kustomize", str(each), folder=chart.ROOT), deadline_s=60)
        for each in (chart.KUSTOMIZE / "base", chart.KUSTOMIZE / "base/podmonitor", folder)
    ]
    return by_key(found for text in made for found in chart.objects(text))


def test_the_kustomize_files_are_made_from_the_chart() -> None:
    """Byte for byte; `make generated` writes them anew."""
    for name, text in chart.kustomize().items():
        assert (chart.KUSTOMIZE / name).read_text(encoding="utf-8") == text, f"{name} is out of date"


@pytest.mark.parametrize(
    ("components", "exporter"),
    [((), {}), (("nvidia-runtime",), NVIDIA), (("nvidia-runtime", "unprivileged"), NVIDIA | DEVICE_PLUGIN)],
    ids=["plain", "nvidia-runtime", "unprivileged"],
)
def test_chart_and_kustomize_install_the_same(tmp_path: Path, components: tuple[str, ...], exporter: Json) -> None:
    """Object for object; kustomize also makes the responder's namespace, which `helm install` is told."""
    plain = kustomized(tmp_path, *components)
    del plain[("Namespace", "", "gpuheal")]
    assert rendered({**chart.BY_HAND, "exporter": exporter}) == plain


def test_names_of_namespaces_go_everywhere() -> None:
    """With other namespaces no object, role, admission policy or address names one of the usual."""
    values = {
        "exporter": {"namespace": "watch"},
        "reboot": {"namespace": "boots"},
        "alertmanagerConfig": {"enabled": True},
        "uninstall": {"marks": "revert"},
    }
    text = chart.render(values, namespace="heal")
    lines = [line for line in text.splitlines() if "# " not in line]
    for name in (
        "gpuheal-privileged",
        "namespace: gpuheal",
        "namespaces/gpuheal",
        "serviceaccount:gpuheal:",
        ".gpuheal.svc",
    ):
        assert not [line for line in lines if name in line], name
    namespaces = {key[1] for key in by_key(chart.objects(text))}
    assert namespaces == {"", "heal", "watch", "boots", "medik8s-leases", "default"}


def settings_of(folder: Path, objects: Mapping[Key, Json]) -> Path:
    """The ConfigMap as the pod sees it; token files stand where the Secrets are mounted."""
    data = objects[("ConfigMap", "gpuheal", "gpuheal-settings")]["data"]
    for name, text in data.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder / "settings.yaml"


@pytest.mark.parametrize(
    ("profile", "mode"),
    [
        ("conservative", Mode.ENFORCE),
        ("hgx-training", Mode.PROPOSE),
        ("hgx-training", Mode.ENFORCE),
        ("inference", Mode.ENFORCE),
        ("nvl72", Mode.PROPOSE),
        ("single-gpu", Mode.OBSERVE),
    ],
)
def test_every_profile_is_read_by_the_responder(tmp_path: Path, profile: str, mode: Mode) -> None:
    """Its own strict readers take settings and policies; no policy may do more than `mode`."""
    file = settings_of(tmp_path, rendered({"mode": mode.value, "policies": {"profile": profile}}))
    settings = load(file)
    assert settings.engine.mode == mode
    policies = read_policies(list(settings.policies))
    assert policies
    assert {policy.mode for policy in policies} == {mode}


def test_own_settings_and_policies_go_over_the_charts(tmp_path: Path) -> None:
    """What a site sets wins, at any depth, and what it does not set is the chart's."""
    own = (chart.ROOT / "rules/generated/policies/conservative.yaml").read_text(encoding="utf-8")
    values = {
        "policies": {"profile": "", "files": {"own.yaml": own}},
        "reboot": {"image": IMAGE},
        "responder": {
            "settings": {"cluster": "prod-1", "engine": {"tick": "5s"}, "providers": {"job": {"keep": "1d"}}}
        },
    }
    objects = rendered(values)
    settings = load(settings_of(tmp_path, objects))
    assert (settings.cluster, settings.engine.mode, settings.namespace) == ("prod-1", Mode.OBSERVE, "gpuheal")
    assert settings.engine.tick.total_seconds() == 5
    assert [file.name for file in settings.policies] == ["own.yaml"]
    assert settings.providers.by_name["job"].image == IMAGE
    assert settings.providers.by_name["job"].namespace == "gpuheal-privileged"
    assert objects[("ConfigMap", "gpuheal-privileged", "gpuheal-reboot-image")]["data"] == {"image": IMAGE}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"mod": "observe"}, "additional properties 'mod' not allowed"),
        ({"mode": "Enforce"}, "'/mode'"),
        ({"policies": {"profile": "hgx"}}, "'/policies/profile'"),
        ({"policies": {"profile": ""}}, "choose a profile or give a file of your own"),
        ({"policies": {"files": {"settings.yaml": "x"}}}, "settings.yaml is a file of the chart"),
        ({"reboot": {"image": "debian:12"}}, "'/reboot/image'"),
        ({"exporter": {"namespace": "Watch"}}, "'/exporter/namespace'"),
        ({"exporter": {"image": {"digest": "abc"}}}, "'/exporter/image/digest'"),
        ({"podMonitors": {"interval": 15}}, "'/podMonitors/interval'"),
        ({"responder": {"replicas": 0}}, "'/responder/replicas'"),
        ({"uninstall": {"marks": "no"}}, "'/uninstall/marks'"),
        ({"responder": {"settings": {"alertmanager": []}}}, "'/responder/settings'.*'alertmanager' not allowed"),
        ({"responder": {"settings": {"namespace": "x"}}}, "'/responder/settings'.*'namespace' not allowed"),
        (
            {"responder": {"settings": {"alertmanagers": [{"resolve": True}]}}},
            "alertmanagers/0'.*missing property 'url'",
        ),
        ({"responder": {"settings": {"engine": {"tick": 5}}}}, "'/responder/settings/engine/tick'"),
        ({"responder": {"settings": {"engine": {"mode": "act"}}}}, "'/responder/settings/engine/mode'"),
    ],
    ids=str,
)
def test_a_wrong_value_is_refused_with_its_path(values: Json, words: str) -> None:
    """Before anything is installed, and what is said names the value."""
    with pytest.raises(CommandFailed, match=words):
        chart.render(values)


MATRIX: Mapping[str, tuple[Json, Callable[[dict[Key, Json]], object]]] = {
    "no-responder": (
        {"responder": {"enabled": False}},
        lambda o: not any("responder" in k[2] for k in o if k[0] == "Deployment"),
    ),
    "no-exporter": ({"exporter": {"enabled": False}}, lambda o: not any(k[1] == "gpuheal-exporter" for k in o)),
    "no-operator": (
        {"prometheus": {"operator": {"enabled": False}}},
        lambda o: not any("monitoring" in v["apiVersion"] for v in o.values()),
    ),
    "no-network": ({"networkPolicies": {"enabled": False}}, lambda o: not any(k[0] == "NetworkPolicy" for k in o)),
    "no-crd": ({"crd": {"install": False}}, lambda o: not any(k[0] == "CustomResourceDefinition" for k in o)),
    "no-tokens": ({"tokens": {"create": False}}, lambda o: not any(k[0] == "Secret" for k in o)),
    "copies": (
        {"tokens": {"copyTo": ["monitoring", "gpuheal"]}},
        lambda o: len([k for k in o if k[0] == "Secret"]) == 5,
    ),
    "one-replica": (
        {"responder": {"replicas": 1}},
        lambda o: o[("PodDisruptionBudget", "gpuheal", "gpuheal-responder")]["spec"]["maxUnavailable"] == 1,
    ),
    "ipv6": (
        {"exporter": {"listenAddress": "::"}},
        lambda o: "--listen-address=[::]:9845" in container(o, "DaemonSet")["args"],
    ),
    "digest": (
        {"exporter": {"image": {"repository": "r/e", "digest": f"sha256:{'1' * 64}"}}},
        lambda o: container(o, "DaemonSet")["image"] == f"r/e@sha256:{'1' * 64}",
    ),
    "libraries": (
        {"exporter": {"nvidia": {"libraryPath": "/home/kubernetes/bin/nvidia/lib64"}}},
        lambda o: (
            {"name": "LD_LIBRARY_PATH", "value": "/home/kubernetes/bin/nvidia/lib64"}
            in container(o, "DaemonSet")["env"]
        ),
    ),
    "kubelet": (
        {"exporter": {"kubeletPath": "/data/kubelet"}},
        lambda o: "/data/kubelet/pod-resources" in str(o[("DaemonSet", "gpuheal-exporter", "gpuheal-exporter")]),
    ),
    "account": (
        {"prometheus": {"serviceAccount": {"name": "prometheus-k8s"}}},
        lambda o: ("ClusterRoleBinding", "", "gpuheal-discovery") in o,
    ),
    "operator-labels": (
        {"prometheus": {"operator": {"labels": {"release": "kps"}}}, "alertmanagerConfig": {"enabled": True}},
        lambda o: all(
            v["metadata"]["labels"]["release"] == "kps" for v in o.values() if "monitoring" in v["apiVersion"]
        ),
    ),
}


def container(objects: Mapping[Key, Json], kind: str) -> Json:
    """The only container of the only object of a kind."""
    (found,) = [each for key, each in objects.items() if key[0] == kind]
    (only,) = found["spec"]["template"]["spec"]["containers"]
    assert isinstance(only, dict)
    return only


@pytest.mark.parametrize("name", MATRIX)
def test_a_value_does_what_it_says(name: str) -> None:
    """Each switch of the chart alone."""
    values, check = MATRIX[name]
    assert check(rendered(values))


def test_pods_of_others_are_left_alone() -> None:
    """No NetworkPolicy selects a pod that is not ours, whatever namespace is shared; that of reboot Jobs never is."""
    made = rendered(
        {"exporter": {"namespace": "gpu-operator"}, "reboot": {"namespace": "boots"}}, namespace="monitoring"
    )
    for (kind, namespace, name), each in made.items():
        if kind == "NetworkPolicy" and namespace != "boots":
            assert each["spec"]["podSelector"]["matchLabels"]["app.kubernetes.io/name"] == "gpuheal", name


def test_everything_is_said_where_it_belongs() -> None:
    """Every object of a namespaced kind names its namespace: `helm template | kubectl apply` installs the same."""
    cluster = {"Namespace", "CustomResourceDefinition", "ClusterRole", "ClusterRoleBinding"}
    for kind, namespace, name in rendered({"uninstall": {"marks": "revert"}}):
        assert bool(namespace) != (kind in cluster or kind.startswith("ValidatingAdmissionPolicy")), (kind, name)


def test_the_notes_say_what_is_left_to_do() -> None:
    """As helm prints them after an installation, and only what these values leave to do."""
    command = ["install", "gpuheal", str(chart.CHART), "--dry-run=client", "--namespace=gpuheal"]

    def notes(*args: str) -> str:
        said = run(find("helm").command(*command, *args, folder=chart.ROOT), deadline_s=60)
        return said.partition("\nNOTES:\n")[2]

    usual = notes()
    for words in (
        "image.repository, exporter.image.repository",
        "changes nothing",
        "gpuheal-webhook-token",
        "release=kube-prometheus-stack",
        "No node can be rebooted",
    ):
        assert words in usual
    done = notes(
        f"--set=reboot.image={IMAGE},prometheus.operator.labels.release=x,alertmanagerConfig.enabled=true,mode=enforce",
        "--set=prometheus.serviceAccount.name=p,responder.image.repository=r/g,exporter.image.repository=r/e",
    )
    for words in (
        "image.repository",
        "changes nothing",
        "release=kube-prometheus-stack",
        "No node can be rebooted",
        "merge a file",
    ):
        assert words not in done


def test_the_readmes_values_are_values(tmp_path: Path) -> None:
    """The file that the README shows renders, its settings are the responder's, and its monitors carry the label."""
    text = (chart.CHART.parent / "README.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"<!-- test: values -->\n```yaml\n(.*?)```", text, re.DOTALL)
    file = tmp_path / "my-values.yaml"
    file.write_text(shown, encoding="utf-8")
    objects = rendered(None, f"--values={file}")
    assert load(settings_of(tmp_path, objects)).cluster == "prod-1"
    assert container(objects, "Deployment")["image"] == "registry.example/gpuheal:0.1.0"
    monitor = objects[("PodMonitor", "gpuheal-exporter", "gpuheal-exporter")]
    assert monitor["metadata"]["labels"]["release"] == "kube-prometheus-stack"
    assert ("AlertmanagerConfig", "gpuheal", "gpuheal") in objects


def test_the_routes_are_the_committed_ones() -> None:
    """In the usual namespace the AlertmanagerConfig is the generated one, whose routes have tests of their own."""
    made = rendered({"alertmanagerConfig": {"enabled": True}})[("AlertmanagerConfig", "gpuheal", "gpuheal")]
    file = chart.ROOT / "rules/generated/alertmanager/alertmanagerconfig.yaml"
    assert [made] == chart.objects(file.read_text(encoding="utf-8"))


def test_dashboards_are_config_maps_for_the_sidecar(tmp_path: Path) -> None:
    """One for each file in the chart, as it stands there, with the label that the sidecar selects; none when off."""
    folder = tmp_path / "gpuheal"
    shutil.copytree(chart.CHART, folder)
    shutil.rmtree(folder / "files" / "dashboards", ignore_errors=True)
    (folder / "files" / "dashboards").mkdir()
    text = '{\n "title": "Fleet {{node}}",\n "panels": []\n}\n'
    (folder / "files" / "dashboards" / "fleet.json").write_text(text, encoding="utf-8")
    command = ["template", "gpuheal", str(folder), "--namespace=gpuheal", "--set=rules.enabled=false"]
    said = run(find("helm").command(*command, "--set=dashboards.namespace=grafana", folder=tmp_path), deadline_s=60)
    made = by_key(chart.objects(said))[("ConfigMap", "grafana", "gpuheal-dashboard-fleet")]
    assert made["data"] == {"fleet.json": text}
    assert made["metadata"]["labels"]["grafana_dashboard"] == "1"
    off = run(find("helm").command(*command, "--set=dashboards.enabled=false", folder=tmp_path), deadline_s=60)
    assert "gpuheal-dashboard-" not in off
