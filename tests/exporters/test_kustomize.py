"""deploy/kustomize/exporter: arguments, mounts, probes and target labels are those of exporter, rules and responder."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest
import yaml

from gpuheal_exporters.collectors.kernel import KernelCollector
from gpuheal_exporters.collectors.software import SOCKETS
from gpuheal_exporters.host.identity import StaticInventory
from gpuheal_exporters.node.state import NodeExporterState
from gpuheal_exporters.options import build_parser, parse_options
from gpuheal_exporters.pods.podresources import SOCKET
from gpuheal_exporters.server import App
from gpuheal_lab.servers.find import Generation, ensure
from gpuheal_responder.actions.taint import UNHEALTHY
from gpuheal_responder.core.budget import DEFAULT_KEYS, FABRIC, RACK, UNKNOWN, ZONE, domains_of
from gpuheal_rules.catalogue.reader import parse_duration
from gpuheal_rules.options import Options

REPOSITORY = Path(__file__).parents[2]
FOLDER = REPOSITORY / "deploy/kustomize/exporter"
IMAGE = REPOSITORY / "deploy/docker/exporter.Dockerfile"
UNIT = REPOSITORY / "deploy/systemd/gpuheal-exporter.service"
LABELS = REPOSITORY / "rules/gpuheal_rules/catalogue/data/labels.yaml"
GPU_TAINT = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}
DIMENSIONS = {"rack": RACK, "zone": ZONE, "fabric_domain": FABRIC}
OF_THE_HOST = (
    "proc/sys/kernel/random/boot_id",
    "proc/driver/nvidia/version",
    "proc/1/net/tcp",
    "sys/bus/pci/devices",
    "sys/class/infiniband",
    "sys/module/nvidia/version",
    "var/log/kern.log",
    "var/log/pods",
    SOCKET,
    *SOCKETS["device_plugin"],
)
"""What the exporter reads below its root, at least one of every folder."""

Json = dict[str, Any]


def objects(*names: str) -> list[Json]:
    """The objects of the kustomization in a folder below FOLDER, as they stand in its files."""
    folder = FOLDER.joinpath(*names)
    resources = yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]
    return [found for name in resources for found in yaml.safe_load_all((folder / name).read_text())]


def one(kind: str, *names: str) -> Json:
    """The only object of a kind."""
    (found,) = [each for each in objects(*names) if each["kind"] == kind]
    return found


def pod() -> Json:
    """The DaemonSet's pod."""
    spec: Json = one("DaemonSet")["spec"]["template"]["spec"]
    return spec


def container() -> Json:
    """The exporter's container."""
    (found,) = pod()["containers"]
    assert isinstance(found, dict)
    return found


def endpoint() -> Json:
    """What the PodMonitor scrapes."""
    (found,) = one("PodMonitor", "podmonitor")["spec"]["podMetricsEndpoints"]
    assert isinstance(found, dict)
    return found


def readme(name: str) -> Any:
    """The YAML of the README's block marked `<!-- test: NAME -->`."""
    found = re.search(rf"<!-- test: {name} -->\n```yaml\n(.*?)\n```", (FOLDER / "README.md").read_text(), re.DOTALL)
    assert found, f"no block marked {name}"
    return yaml.safe_load(found[1])


def tolerated(taint: Mapping[str, str]) -> bool:
    """A toleration of the pod matches the taint (k8s.io/api core/v1 Toleration.ToleratesTaint)."""
    return any(
        each.get("effect") in (None, taint["effect"])
        and each.get("key") in (None, taint["key"])
        and (each.get("operator") == "Exists" or each.get("value", "") == taint["value"])
        for each in pod()["tolerations"]
    )


def on_host(path: Path) -> tuple[Path, bool]:
    """The host's path behind a path in the container, and whether it may be written there."""
    volumes = {volume["name"]: volume["hostPath"]["path"] for volume in pod()["volumes"] if "hostPath" in volume}
    for mount in container()["volumeMounts"]:
        if path.is_relative_to(mount["mountPath"]) and mount["name"] in volumes:
            return volumes[mount["name"]] / path.relative_to(mount["mountPath"]), not mount.get("readOnly", False)
    raise AssertionError(f"{path} is on no mount of the host")


def relabelled(rules: list[Json], meta: Mapping[str, str]) -> dict[str, str]:
    """Target labels that `replace` rules of Prometheus make of a target's meta labels (model/relabel of Prometheus)."""
    made: dict[str, str] = {}
    for rule in rules:
        match = re.fullmatch(rule.get("regex", "(.*)"), ";".join(meta.get(name, "") for name in rule["sourceLabels"]))
        if match and match[1]:
            made[rule["targetLabel"]] = match[1]
    return made


def meta_labels(node: str, labels: Mapping[str, str]) -> dict[str, str]:
    """Meta labels of a pod on a node (Prometheus' kubernetes_sd_config, with attach_metadata)."""
    found = {f"__meta_kubernetes_node_label_{re.sub('[^a-zA-Z0-9_]', '_', k)}": v for k, v in labels.items()}
    return {"__meta_kubernetes_pod_node_name": node, **found}


def test_the_arguments_are_the_exporters() -> None:
    """The real parser takes them; the port is the container's, and the pod's address is served, not loopback alone."""
    options = parse_options(container()["args"])
    (port,) = container()["ports"]
    assert (options.host, options.port, port["name"]) == ("0.0.0.0", port["containerPort"], "metrics")
    assert f"EXPOSE {options.port}\n" in IMAGE.read_text()


def test_the_image_has_the_name_its_file_gives_it() -> None:
    """A plain name that a site replaces, the one in the Dockerfile's first line; the entry point is the image's."""
    name = container()["image"].partition(":")[0]
    assert f" -t {name} ." in IMAGE.read_text().splitlines()[0]
    assert "command" not in container()
    assert readme("overlay")["images"][0]["name"] == name


def test_every_path_setting_is_on_a_mount() -> None:
    """The log device is the host's, the state outlives the pod, and the token is a Secret's that may be missing."""
    options = parse_options(container()["args"])
    defaults = [action.dest for action in build_parser()._actions if action.type is Path]
    given = {name for name in defaults if getattr(options, name) is not None}
    assert given == {"kmsg", "state_dir", "token_file", "root"}
    assert on_host(options.kmsg) == (Path("/dev/kmsg"), False)
    assert on_host(options.state_dir) == (build_parser().get_default("state_dir"), True)
    (secret,) = [volume for volume in pod()["volumes"] if "secret" in volume]
    (mount,) = [mount for mount in container()["volumeMounts"] if mount["name"] == secret["name"]]
    assert options.token_file.parent == Path(mount["mountPath"])
    assert secret["secret"]["optional"] is True


@pytest.mark.parametrize("path", OF_THE_HOST)
def test_what_is_read_below_the_root_is_the_hosts(path: str) -> None:
    """The root shows the host's file under its own path, read-only."""
    options = parse_options(container()["args"])
    assert on_host(options.root / path) == (Path("/") / path, False)


def test_only_the_state_can_be_written() -> None:
    """Besides the state directory every mount is read-only, and so is the root file system."""
    assert [m["mountPath"] for m in container()["volumeMounts"] if not m.get("readOnly")] == ["/var/lib/gpuheal"]
    assert container()["securityContext"]["readOnlyRootFilesystem"] is True


def test_the_pod_has_no_way_to_the_api_server_or_the_hosts_namespaces() -> None:
    """No token, no role, neither the host's network nor its processes or IPC."""
    assert pod()["automountServiceAccountToken"] is one("ServiceAccount")["automountServiceAccountToken"] is False
    assert pod()["serviceAccountName"] == one("ServiceAccount")["metadata"]["name"]
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod())
    assert not [each for each in objects() if "Role" in each["kind"]]


def test_the_unprivileged_component_has_the_units_only_capability() -> None:
    """With it the container drops everything but the capability the systemd unit has, and takes no host device."""
    (patch,) = yaml.safe_load((FOLDER / "unprivileged/kustomization.yaml").read_text())["patches"]
    (changed,) = yaml.safe_load(patch["patch"])["spec"]["template"]["spec"]["containers"]
    assert changed["securityContext"]["privileged"] is False
    assert changed["securityContext"]["capabilities"]["drop"] == ["ALL"]
    (added,) = changed["securityContext"]["capabilities"]["add"]
    assert f"\nCapabilityBoundingSet=CAP_{added}\n" in UNIT.read_text()
    assert {"mountPath": "/dev/kmsg", "$patch": "delete"} in changed["volumeMounts"]


def test_the_pod_stays_on_a_contained_node() -> None:
    """gpuheal's own taint, the usual one of GPU nodes and a drain's NoExecute are tolerated; the priority is the
    highest.
    """
    ours = {"key": UNHEALTHY.key, "value": UNHEALTHY.value, "effect": UNHEALTHY.effect}
    assert all(map(tolerated, (ours, {**ours, "effect": "NoExecute"}, GPU_TAINT)))
    assert pod()["priorityClassName"] == "system-node-critical"
    (term,) = one("ResourceQuota")["spec"]["scopeSelector"]["matchExpressions"]
    assert term["values"] == [pod()["priorityClassName"]]


def test_the_memory_limit_is_not_below_the_units() -> None:
    """What systemd allows the exporter the kubelet allows too; both are whole MiB."""
    unit = re.search(r"^MemoryMax=(\d+)M$", UNIT.read_text(), re.MULTILINE)
    limit = re.fullmatch(r"(\d+)Mi", container()["resources"]["limits"]["memory"])
    assert unit is not None
    assert limit is not None
    assert int(limit[1]) >= int(unit[1])


@pytest.mark.parametrize("name", ["readinessProbe", "livenessProbe", "scrape"])
def test_probes_and_scrapes_ask_for_pages_that_are_served(name: str) -> None:
    """The exporter answers 200 under the path, and the port is the container's by name."""
    get = {"path": endpoint()["path"], "port": endpoint()["port"]} if name == "scrape" else container()[name]["httpGet"]
    state = NodeExporterState(inventory=StaticInventory(), boot_id="b", clock=lambda: 1.0)
    environ: Json = {"PATH_INFO": get["path"]}
    setup_testing_defaults(environ)
    said: list[str] = []
    App(state=state, collector=KernelCollector(state))(environ, lambda status, _headers: said.append(status))
    assert said == ["200 OK"]
    assert get["port"] == container()["ports"][0]["name"]


def test_the_podmonitor_selects_the_daemonsets_pods() -> None:
    """Its selector matches the pod's labels in the same namespace, its job the rules' pattern, its interval their
    windows.
    """
    monitor = one("PodMonitor", "podmonitor")
    wanted = monitor["spec"]["selector"]["matchLabels"]
    assert wanted.items() <= one("DaemonSet")["spec"]["template"]["metadata"]["labels"].items()
    assert "namespaceSelector" not in monitor["spec"]
    kustomizations = [yaml.safe_load((FOLDER / n / "kustomization.yaml").read_text()) for n in ("", "podmonitor")]
    namespace, same = (each["namespace"] for each in kustomizations)
    assert namespace == same == one("Namespace")["metadata"]["name"]
    assert re.fullmatch(Options().jobs["exporter"], f"{namespace}/{monitor['metadata']['name']}")
    assert parse_duration(endpoint()["interval"]) <= Options().scrape_interval
    assert timedelta(0) < parse_duration(endpoint()["scrapeTimeout"]) < parse_duration(endpoint()["interval"])


def test_the_target_labels_are_those_the_rules_expect() -> None:
    """`node` and the rules' topology labels, and no others."""
    topology = yaml.safe_load(LABELS.read_text())["topology"]
    assert {rule["targetLabel"] for rule in endpoint()["relabelings"]} == {"node", *topology}
    assert set(topology) == set(DIMENSIONS)
    assert one("PodMonitor", "podmonitor")["spec"]["attachMetadata"] == {"node": True}


def worlds() -> list[dict[str, str]]:
    """Node labels: each alone, all at once, and none."""
    every = {key: f"v{n}" for n, key in enumerate(k for d in DIMENSIONS.values() for k in DEFAULT_KEYS[d])}
    return [*({key: value} for key, value in every.items()), every, {}]


@pytest.mark.parametrize("labels", worlds(), ids=lambda labels: "+".join(labels) or "none")
def test_a_node_is_where_the_responder_thinks_it_is(labels: dict[str, str]) -> None:
    """Alerts and budgets name the same rack, zone and NVLink domain; what the node does not say is left out."""
    domains = domains_of(labels)
    known = {name: domains.get(dimension, UNKNOWN) for name, dimension in DIMENSIONS.items()}
    expected = {"node": "n1", **{name: value for name, value in known.items() if value != UNKNOWN}}
    assert relabelled(endpoint()["relabelings"], meta_labels("n1", labels)) == expected


def test_the_plain_scrape_config_says_the_same() -> None:
    """The README's job has the PodMonitor's rules, interval and namespace, the container's port, and a name the rules
    know.
    """
    (job,) = readme("scrape")
    rules = [rule for rule in job["relabel_configs"] if "target_label" in rule]
    camel = {"source_labels": "sourceLabels", "target_label": "targetLabel", "regex": "regex"}
    assert [{camel[key]: value for key, value in rule.items()} for rule in rules] == endpoint()["relabelings"]
    assert (job["scrape_interval"], job["scrape_timeout"]) == (endpoint()["interval"], endpoint()["scrapeTimeout"])
    (discovery,) = job["kubernetes_sd_configs"]
    assert discovery["namespaces"]["names"] == [one("Namespace")["metadata"]["name"]]
    assert discovery["attach_metadata"] == {"node": True}
    kept = {rule["source_labels"][0]: rule["regex"] for rule in job["relabel_configs"] if rule.get("action") == "keep"}
    assert kept == {"__meta_kubernetes_pod_container_port_number": str(container()["ports"][0]["containerPort"])}
    assert re.fullmatch(Options().jobs["exporter"], job["job_name"])


def test_dcgm_exporter_gets_the_same_node_label() -> None:
    """The README's relabelling for dcgm-exporter is the PodMonitor's first."""
    monitor = readme("dcgm")["dcgmExporter"]["serviceMonitor"]
    assert monitor["relabelings"] == endpoint()["relabelings"][:1]
    assert parse_duration(monitor["interval"]) <= Options().scrape_interval


@pytest.fixture(scope="session")
def promtool() -> str:
    """promtool of Debian's generation: the oldest that clusters run."""
    return str(ensure("promtool", Generation.DEBIAN).path)


@pytest.mark.servers
def test_prometheus_relabels_as_the_readme_says(promtool: str, tmp_path: Path) -> None:
    """With the README's job the oldest supported release gives running pods' targets their labels and drops others.

    Discovery is played by a static configuration with its meta labels: promtool may be built without Kubernetes.
    """
    labels = {
        key: f"v-{key.rpartition('/')[2]}" for dimension in DIMENSIONS.values() for key in DEFAULT_KEYS[dimension]
    }
    phase, port = "__meta_kubernetes_pod_phase", "__meta_kubernetes_pod_container_port_number"
    meta = {**meta_labels("n1", labels), phase: "Running", port: "9845"}
    played = (meta, {**meta, phase: "Failed"}, {**meta, port: "9846"})
    (job,) = readme("scrape")
    del job["kubernetes_sd_configs"]
    job["static_configs"] = [{"targets": [f"10.0.0.{n}:9845"], "labels": each} for n, each in enumerate(played)]
    file = tmp_path / "prometheus.yml"
    file.write_text(yaml.safe_dump({"scrape_configs": [job]}))
    command = [promtool, "check", "service-discovery", "--timeout=5s", str(file), job["job_name"]]
    done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr).decode()
    made = [each["labels"] for each in json.loads(done.stdout) if each["labels"]]
    expected = {"node": "n1", **{name: domains_of(labels)[dimension] for name, dimension in DIMENSIONS.items()}}
    (target,) = ({k: v for k, v in each.items() if not k.startswith("__")} for each in made)
    assert target == {**expected, "instance": "10.0.0.0:9845", "job": job["job_name"]}
