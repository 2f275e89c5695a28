"""gpuheal's own objects on a control plane: what deploy/kustomize/base makes, and tokens of its service accounts.

Needs a checkout of the project. All calls block, with deadlines.
"""

from __future__ import annotations

import itertools
from functools import partial
from pathlib import Path

import yaml

from gpuheal_lab.controlplane.plane import ControlPlane
from gpuheal_lab.servers.find import find
from gpuheal_lab.servers.process import LabError, run
from gpuheal_lab.servers.stack import wait_for

BASE = Path(__file__).parents[3] / "kustomize" / "base"
NAMESPACE, ACCOUNT = "gpuheal", "gpuheal-responder"
ACCOUNTS = (f"{NAMESPACE}/serviceaccounts/{ACCOUNT}", "gpuheal-privileged/serviceaccounts/gpuheal-reboot")
DEFINITION = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/remediations.gpu.health"
DEADLINE_S = 60.0
_NUMBERS = itertools.count()


def kubectl(plane: ControlPlane, *args: str) -> None:
    """Run kubectl as the plane's administrator, in the folder of the manifests."""
    if not BASE.is_dir():
        raise LabError(f"{BASE} is not there: this needs a checkout of the project")
    binary = find("kubectl")
    run(binary.command(f"--kubeconfig={plane.kubeconfig()}", *args, folder=BASE), deadline_s=DEADLINE_S)


def install(plane: ControlPlane) -> None:
    """Install the manifests: the CRD is served and the service accounts exist; the Deployment runs no pods."""
    kubectl(plane, "apply", "-k", str(BASE))
    kubectl(plane, "-n", NAMESPACE, "scale", f"deployment/{ACCOUNT}", "--replicas=0")
    wait_until_installed(plane)


def wait_until_installed(plane: ControlPlane) -> None:
    """The CRD is served and the service accounts exist."""
    wait_for(partial(_established, plane), "the CRD to be established", DEADLINE_S)
    for account in ACCOUNTS:
        wait_for(partial(plane.admin.get, f"/api/v1/namespaces/{account}"), account, DEADLINE_S)


def write_kubeconfig(plane: ControlPlane, url: str = "", ca_file: str = "", account: str = ACCOUNT) -> Path:
    """Return a new kubeconfig with a token of a service account, for the plane or for a server in front of it."""
    server = {"server": url or plane.url}
    if ca_file or not url:
        server["certificate-authority"] = ca_file or str(plane.ca_file)
    path = plane.folder / f"account-{next(_NUMBERS)}.yaml"
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "lab", "cluster": server}],
        "users": [{"name": account, "user": {"token": plane.service_account_token(NAMESPACE, account)}}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": account}}],
        "current-context": "lab",
    }
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def _established(plane: ControlPlane) -> bool:
    conditions = plane.admin.get(DEFINITION).get("status", {}).get("conditions", ())
    return any(c["type"] == "Established" and c["status"] == "True" for c in conditions)
