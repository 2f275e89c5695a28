"""Roles and bindings, made from the rights that adapters and providers declare: no more, no less."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from gpuheal_responder.config.settings import Kubernetes, Settings
from gpuheal_responder.providers import PROVIDERS
from gpuheal_responder.providers.job import JobSettings
from gpuheal_responder.rights import Right
from gpuheal_responder.shell.kube import cluster, controls, election, events, histories, lease, remediations, review

Json = dict[str, Any]

ACCOUNT = "gpuheal-responder"
REBOOT_ACCOUNT = JobSettings().service_account
NAMESPACE = str(next(f.default for f in fields(Settings) if f.name == "namespace"))
PRIVILEGED = JobSettings().namespace
RBAC = "rbac.authorization.k8s.io"
ROLES: Mapping[str, str] = {
    "": ACCOUNT,
    NAMESPACE: ACCOUNT,
    lease.NODE_LOCK_NAMESPACE: "gpuheal-node-locks",
    events.NAMESPACE: "gpuheal-events",
    PRIVILEGED: "gpuheal-reboot-jobs",
}
"""Name of our role by namespace; the empty one is the ClusterRole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The namespaces of an installation; the Helm chart puts its values in here."""

    namespace: str = NAMESPACE
    privileged: str = PRIVILEGED

    def of(self, namespace: str) -> str:
        """Return what a namespace of the default installation is called here."""
        return {NAMESPACE: self.namespace, PRIVILEGED: self.privileged}.get(namespace, namespace)


DEFAULT = Place()


def rights() -> tuple[Right, ...]:
    """Return all that the responder needs of the API server, as installed from deploy/kustomize."""
    return (
        *cluster.RIGHTS,
        *remediations.RIGHTS,
        *review.RIGHTS,
        *election.rights(NAMESPACE, Kubernetes().lease),
        *controls.rights(NAMESPACE, Kubernetes().controls),
        *histories.rights(NAMESPACE),
        *lease.RIGHTS,
        *events.RIGHTS,
        *(right for kind in PROVIDERS.values() for right in kind.rights(kind.settings())),
    )


def documents(installed: Place = DEFAULT) -> Iterator[tuple[str, Json]]:
    """Yield accounts, roles and bindings, each with the comment that stands above it."""
    yield "", _account(ACCOUNT, installed.namespace)
    no_token = {"automountServiceAccountToken": False}
    yield (
        "Service account of the reboot pods; it has no permissions, and its token is not mounted.",
        {
            **_account(REBOOT_ACCOUNT, installed.privileged),
            **no_token,
        },
    )
    for namespace, name in ROLES.items():
        found = [right for right in rights() if right.namespace == namespace]
        kind = "Role" if namespace else "ClusterRole"
        place = {"namespace": installed.of(namespace)} if namespace else {}
        words = "\n".join(dict.fromkeys(_words(right) for right in found))
        yield words, _role(kind, {"name": name, **place}, [_rule(right) for right in found])
        yield "", _binding(kind, {"name": name, **place}, installed.namespace)
    yield from _people()


def _people() -> Iterator[tuple[str, Json]]:
    group, plural = remediations.GROUP, remediations.PLURAL
    see = {"apiGroups": [group], "resources": [plural], "verbs": ["get", "list", "watch"]}
    aggregated = {"name": "gpuheal-viewer", "labels": {f"{RBAC}/aggregate-to-view": "true"}}
    yield (
        "For users: the built-in role `view` includes reading cases; approving is granted separately with this role.",
        _role("ClusterRole", aggregated, [see]),
    )
    approve = {"apiGroups": [group], "resources": [f"{plural}/approve"], "verbs": ["create"]}
    write = {"apiGroups": [group], "resources": [plural], "verbs": ["patch"]}
    yield (
        "Approvals are part of the spec, which the responder may not write; users may not write the status.",
        _role("ClusterRole", {"name": "gpuheal-approver"}, [see, write, approve]),
    )
    yield (
        "For the Prometheus that scrapes the responder, unless settings name metrics_token_files.",
        _role("ClusterRole", {"name": "gpuheal-metrics-reader"}, [{"nonResourceURLs": ["/metrics"], "verbs": ["get"]}]),
    )


def _words(right: Right) -> str:
    names = f" {', '.join(right.names)}" if right.names else ""
    return f"{', '.join(right.resources)}{names}: {right.why}"


def _rule(right: Right) -> Json:
    named = {"resourceNames": list(right.names)} if right.names else {}
    return {"apiGroups": [right.group], "resources": list(right.resources), **named, "verbs": list(right.verbs)}


def _account(name: str, namespace: str) -> Json:
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": namespace}}


def _role(kind: str, metadata: Json, rules: list[Json]) -> Json:
    return {"apiVersion": f"{RBAC}/v1", "kind": kind, "metadata": metadata, "rules": rules}


def _binding(kind: str, metadata: Json, namespace: str) -> Json:
    return {
        "apiVersion": f"{RBAC}/v1",
        "kind": f"{kind}Binding",
        "metadata": metadata,
        "roleRef": {"apiGroup": RBAC, "kind": kind, "name": metadata["name"]},
        "subjects": [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": namespace}],
    }
