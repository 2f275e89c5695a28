"""A real Kubernetes control plane on loopback: etcd, API server, controller manager, scheduler, and played kubelets.

    with ControlPlane(folder) as plane:
        nodes = plane.create_nodes(4, racks=2)
        plane.leave(nodes[0])            # its machine dies: the Lease runs out, the node goes NotReady
        plane.reboot(nodes[1])           # its boot id changes

No root, no container, no CRD. Each component is a `Child` (`plane.apiserver.restart()`, `.kill()`, `.freeze()`); ports
and data stay over restarts. All calls block, with deadlines; in a coroutine use `asyncio.to_thread`.
"""

from __future__ import annotations

import csv
import json
import os
import secrets
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from gpuheal_lab.controlplane.kubeapi import ApiRefused, KubeApi
from gpuheal_lab.controlplane.nodes import boot_id_patch, node_object
from gpuheal_lab.servers.find import find
from gpuheal_lab.servers.process import Child, LabError, free_ports
from gpuheal_lab.servers.stack import wait_for

Json = dict[str, Any]

ADMIN = "admin"
KUBELETS = "lab-kubelets"
COMPONENTS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
START_DEADLINE_S = 90.0
NODES_DEADLINE_S = 120.0
PROBE_DEADLINE_S = 3.0
STOP_DEADLINE_S = 2.0  # the API server would wait a minute for open watches to end
CREATORS = 8
NO_CLOUD = "*,-node-ipam-controller,-cloud-node-lifecycle-controller,-service-lb-controller,-node-route-controller"


class ControlPlane:
    """One control plane in one folder, not started until `start` or entering it.

    `node_grace_s`: after how long without a Lease a node is NotReady (Kubernetes' default is 50 s; the played kubelets
    renew four times in it). `identities`: further users and their groups, beside `admin`. `flags`: more, per component.
    """

    def __init__(
        self,
        folder: Path,
        *,
        node_grace_s: int = 8,
        identities: Mapping[str, Sequence[str]] | None = None,
        flags: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.folder = folder
        self._flags = flags or {}
        self._grace_s = node_grace_s
        self._left: set[str] = set()
        folder.mkdir(parents=True, exist_ok=True)
        groups = {ADMIN: ["system:masters"], KUBELETS: ["system:masters"], **(identities or {})}
        self.tokens = {user: secrets.token_hex(16) for user in groups}
        ports = dict(zip(("etcd", "peer", "api", "controllers", "scheduler"), free_ports(5), strict=True))
        self.url = f"https://127.0.0.1:{ports['api']}"
        self.ca_file = folder / "ca.pem"
        self._prepare(groups)
        self.admin = KubeApi(self.url, self.ca_file, self.tokens[ADMIN])
        self.etcd = self._etcd(ports)
        self.apiserver = self._apiserver(ports)
        self.controller_manager = self._controller_manager(ports)
        self.scheduler = self._scheduler(ports)
        self.kubelets = self._kubelets()

    @property
    def components(self) -> tuple[Child, ...]:
        """In the order they start."""
        return self.etcd, self.apiserver, self.controller_manager, self.scheduler, self.kubelets

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Every component is ready and pods can be created in namespace default; on failure none runs."""
        try:
            self.etcd.start(START_DEADLINE_S)
            self.apiserver.start(START_DEADLINE_S)
            for child in (self.controller_manager, self.scheduler, self.kubelets):
                child.launch()
            for child in (self.controller_manager, self.scheduler, self.kubelets):
                child.wait_ready(START_DEADLINE_S)
            self._wait_for_namespace("default")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """No component runs any more."""
        for child in reversed(self.components):
            child.kill()  # nothing is to be kept; SIGTERM would wait for open watches

    # Identities

    def as_user(self, user: str) -> KubeApi:
        """Requests as one of the identities it was made with."""
        return KubeApi(self.url, self.ca_file, self.tokens[user])

    def as_service_account(self, namespace: str, name: str) -> KubeApi:
        """Requests as a service account, with a token of the TokenRequest API."""
        return KubeApi(self.url, self.ca_file, self.service_account_token(namespace, name))

    def service_account_token(self, namespace: str, name: str) -> str:
        """A fresh token of the existing service account, good for an hour."""
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}}
        made = self.admin.create(f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token", body)
        return str(made["status"]["token"])

    def kubeconfig(self, user: str = ADMIN) -> Path:
        """A kubeconfig file of an identity."""
        path = self.folder / f"kubeconfig-{user}.yaml"
        cluster = {"server": self.url, "certificate-authority": str(self.ca_file)}
        text = yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "lab", "cluster": cluster}],
                "users": [{"name": user, "user": {"token": self.tokens[user]}}],
                "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": user}}],
                "current-context": "lab",
            }
        )
        _write_secret(path, text)
        return path

    def create_namespace(self, name: str) -> str:
        """The namespace exists and pods can be created in it; returns its name."""
        self.admin.create("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        self._wait_for_namespace(name)
        return name

    # Nodes

    def create_nodes(
        self,
        count: int,
        *,
        prefix: str = "gpu",
        gpus: int = 8,
        racks: int = 1,
        zones: int = 1,
        labels: Mapping[str, str] | None = None,
        wait: bool = True,
    ) -> list[str]:
        """`count` nodes named PREFIX-0000 up, spread over racks and zones in turn; Ready and untainted if `wait`."""
        bodies = [
            node_object(
                f"{prefix}-{index:04d}",
                gpus=gpus,
                zone=f"zone-{'abcdefghijklmnopqrstuvwxyz'[index % zones]}",
                rack=f"rack-{index % racks}",
                labels=labels,
            )
            for index in range(count)
        ]
        with ThreadPoolExecutor(CREATORS) as pool:
            list(pool.map(lambda body: self.admin.create("/api/v1/nodes", body), bodies))
        names = [str(body["metadata"]["name"]) for body in bodies]
        if wait:
            wanted = set(names)
            wait_for(lambda: wanted <= self._settled(), f"{count} nodes to be Ready", NODES_DEADLINE_S)
        return names

    def delete_nodes(self, names: Sequence[str]) -> None:
        """The nodes are gone; pods bound to them go as the pod garbage collector finds them. Repeatable."""
        for name in names:
            try:
                self.admin.delete(f"/api/v1/nodes/{name}")
            except ApiRefused as error:
                if error.status != 404:
                    raise
        self._set_left(self._left - set(names))

    def node(self, name: str) -> Json:
        """The Node object."""
        return self.admin.get(f"/api/v1/nodes/{name}")

    def leave(self, name: str) -> None:
        """Nobody plays the node's kubelet any more, as if its machine had died."""
        self._set_left(self._left | {name})

    def rejoin(self, name: str) -> None:
        """The node's kubelet is played again; it becomes Ready within a second or two."""
        self._set_left(self._left - {name})

    def reboot(self, name: str) -> str:
        """The node's boot id is a new one, which is returned; nothing else changes (leave and rejoin make it long)."""
        boot_id, patch = boot_id_patch()
        self.admin.patch(f"/api/v1/nodes/{name}/status", patch)
        return boot_id

    def wait_until_ready(self, name: str, *, ready: bool = True, deadline_s: float = 60.0) -> None:
        """The node is Ready and without node.kubernetes.io/ taints, or with ready=False is not Ready."""

        def check() -> bool:
            found, tainted = readiness(self.node(name))
            return (found == "True" and not tainted) if ready else (found in ("False", "Unknown") and tainted)

        wait_for(check, f"node {name} to be {'Ready' if ready else 'NotReady'}", deadline_s)

    def _settled(self) -> set[str]:
        return {
            node["metadata"]["name"] for node in self.admin.list("/api/v1/nodes") if readiness(node) == ("True", False)
        }

    def _set_left(self, left: set[str]) -> None:
        self._left = left
        part = self.folder / "kubelets.json.part"
        part.write_text(json.dumps({"left": sorted(left)}), encoding="utf-8")
        part.replace(self.folder / "kubelets.json")

    def _wait_for_namespace(self, name: str) -> None:
        path = f"/api/v1/namespaces/{name}/serviceaccounts/default"
        wait_for(lambda: self.admin.get(path), f"the service account of namespace {name}", START_DEADLINE_S)

    # Components

    def _prepare(self, groups: Mapping[str, Sequence[str]]) -> None:
        import trustme
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

        authority = trustme.CA()
        authority.cert_pem.write_to_path(self.ca_file)
        issued = authority.issue_cert("127.0.0.1", "localhost", "kubernetes.default.svc")
        _write_secret(self.folder / "server.key", issued.private_key_pem.bytes().decode())
        chain = "".join(blob.bytes().decode() for blob in issued.cert_chain_pems)
        (self.folder / "server.pem").write_text(chain, encoding="utf-8")
        key = ec.generate_private_key(ec.SECP256R1())
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
        _write_secret(self.folder / "sa.key", pem.decode())
        with _open_secret(self.folder / "tokens.csv") as file:
            rows = csv.writer(file)
            for user, names in groups.items():
                rows.writerow([self.tokens[user], user, user, ",".join(names)])
        self._set_left(set())

    def _child(self, name: str, args: Sequence[str], probe: str, token: str = "") -> Child:
        server = find(name)

        def ready() -> str | None:
            return _probe(probe, self.ca_file, token)

        return Child(
            name,
            server.command(*args, *self._flags.get(name, ()), folder=self.folder),
            log_path=self.folder / f"{name}.log",
            ready=ready,
            stop_deadline_s=STOP_DEADLINE_S,
        )

    def _etcd(self, ports: Mapping[str, int]) -> Child:
        client, peer = (f"http://127.0.0.1:{ports[kind]}" for kind in ("etcd", "peer"))
        args = [f"--data-dir={self.folder / 'etcd'}", "--unsafe-no-fsync", "--quota-backend-bytes=4294967296"]
        args += [f"--listen-client-urls={client}", f"--advertise-client-urls={client}"]
        args += [
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
        ]
        return self._child("etcd", args, f"{client}/health")

    def _apiserver(self, ports: Mapping[str, int]) -> Child:
        key = self.folder / "sa.key"
        args = [
            f"--etcd-servers=http://127.0.0.1:{ports['etcd']}",
            f"--secure-port={ports['api']}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            "--endpoint-reconciler-type=none",
            f"--tls-cert-file={self.folder / 'server.pem'}",
            f"--tls-private-key-file={self.folder / 'server.key'}",
            f"--cert-dir={self.folder / 'certs'}",
            "--service-cluster-ip-range=10.0.0.0/24",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={key}",
            f"--service-account-signing-key-file={key}",
            f"--token-auth-file={self.folder / 'tokens.csv'}",
            "--authorization-mode=RBAC",
            "--allow-privileged=true",
        ]
        return self._child("kube-apiserver", args, f"{self.url}/readyz", self.tokens[ADMIN])

    def _controller_manager(self, ports: Mapping[str, int]) -> Child:
        args = [
            *self._controller_flags(ports["controllers"]),
            f"--service-account-private-key-file={self.folder / 'sa.key'}",
            f"--root-ca-file={self.ca_file}",
            "--use-service-account-credentials=true",
            f"--controllers={NO_CLOUD}",
            f"--node-monitor-grace-period={self._grace_s}s",
            "--node-monitor-period=1s",
            "--kube-api-qps=200",
            "--kube-api-burst=400",
        ]
        return self._child("kube-controller-manager", args, f"https://127.0.0.1:{ports['controllers']}/healthz")

    def _scheduler(self, ports: Mapping[str, int]) -> Child:
        args = self._controller_flags(ports["scheduler"])
        return self._child("kube-scheduler", args, f"https://127.0.0.1:{ports['scheduler']}/healthz")

    def _controller_flags(self, port: int) -> list[str]:
        return [
            f"--kubeconfig={self.kubeconfig()}",
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
            f"--secure-port={port}",
            f"--tls-cert-file={self.folder / 'server.pem'}",
            f"--tls-private-key-file={self.folder / 'server.key'}",
        ]

    def _kubelets(self) -> Child:
        mark = self.folder / "kubelets.ready"
        argv = [
            sys.executable,
            "-m",
            "gpuheal_lab.controlplane.kubelet",
            f"--url={self.url}",
            f"--ca-file={self.ca_file}",
        ]
        argv += [f"--control={self.folder / 'kubelets.json'}", f"--ready={mark}"]
        argv += [f"--lease-seconds={self._grace_s}", f"--renew-seconds={self._grace_s / 4}"]
        path = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])

        def ready() -> str | None:
            said = mark.read_text(encoding="utf-8") if mark.exists() else ""
            return None if said == str(self.kubelets.pid) else "has not listed nodes and pods yet"

        env = {**os.environ, "PYTHONPATH": path, "GPUHEAL_LAB_TOKEN": self.tokens[KUBELETS]}
        return Child("kubelets", argv, log_path=self.folder / "kubelets.log", ready=ready, env=env)


# What the node lifecycle controller sets: k8s.io/api/core/v1, well_known_taints.go.
NOT_READY_TAINTS = frozenset({"node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"})


def readiness(node: Json) -> tuple[str, bool]:
    """The status of the node's Ready condition (empty when it has none), and whether it is tainted for it."""
    ready = [item["status"] for item in node["status"].get("conditions", ()) if item["type"] == "Ready"]
    tainted = any(taint["key"] in NOT_READY_TAINTS for taint in node["spec"].get("taints", ()))
    return (ready[0] if ready else ""), tainted


def _probe(url: str, ca_file: Path, token: str) -> str | None:
    if url.startswith("https:"):
        base, path = url.rsplit("/", 1)
        try:
            KubeApi(base, ca_file, token).request("GET", "/" + path)
        except LabError as error:
            return str(error)
        return None
    try:
        with urllib.request.urlopen(url, timeout=PROBE_DEADLINE_S):  # noqa: S310  # our own loopback address
            return None
    except OSError as error:
        return str(error)


def _open_secret(path: Path) -> Any:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8", newline="")


def _write_secret(path: Path, text: str) -> None:
    with _open_secret(path) as file:
        file.write(text)
