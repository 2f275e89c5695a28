"""The admission policy on Remediations, on a real API server: who may approve, and who writes what was done."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import pytest
from tests.integration.cluster.admission import Json, refuses, restrained
from tests.integration.cluster.test_commands import BINDINGS

from gpuheal_lab.controlplane.kubeapi import ApiRefused, KubeApi
from gpuheal_lab.controlplane.plane import ControlPlane
from gpuheal_lab.servers.stack import wait_for

pytestmark = pytest.mark.cluster

CASES = "/apis/gpu.health/v1alpha1/remediations"
ROLES = "/apis/rbac.authorization.k8s.io/v1/clusterroles"


@pytest.fixture(scope="module")
def engine(plane: ControlPlane) -> KubeApi:
    """The responder's account, once the policies are in force."""
    return restrained(plane)


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
    when = {"givenAt": "2026-01-31T12:00:00Z", "expiresAt": "2026-01-31T13:00:00Z"}
    given = {"step": "reboot", "evidence": "0123456789ab", "by": by, **when}
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
    refuses(give(ann, case, yes("ann"), yes("bob")), policy, "in the requester's own name")
    refuses(give(plane.admin, case, yes("ann", step="drain")), policy, "in the requester's own name")
    refuses(give(ann, case, yes("ann", evidence="anything")), policy, "12 hexadecimal digits")
    for days in ({"expiresAt": "2026-02-01T12:00:01Z"}, {"expiresAt": "2027-01-31T12:00:00Z"}):
        refuses(give(ann, case, yes("ann", **days)), policy, "valid for at most 24h")
    undated = {key: value for key, value in yes("ann").items() if key != "givenAt"}
    refuses(give(ann, case, {**undated, "expiresAt": "2026-02-01T12:00:01Z"}), policy, "or from the case's opening")
    give(ann, case, undated)()  # as an earlier version of `gpuheal approve` writes it
    give(ann, case, yes("ann"))()
    refuses(give(bob, case, yes("ann"), yes("bob")), policy, "remediations/approve")
    give(bob, case)()  # taking one back lets less happen
    give(plane.admin, case, yes("admin"))()
    give(ann, case, yes("admin"), yes("ann"))()
    forged = {"spec": {"node": "n", "policy": "p", "openedAt": "2026-01-31T12:00:00Z", "approvals": [yes("ann")]}}
    raw = {"apiVersion": "gpu.health/v1alpha1", "kind": "Remediation", "metadata": {"name": "forged"}, **forged}
    for api in (engine, bob, plane.admin):
        refuses(lambda api=api: api.create(CASES, raw), policy, "in the requester's own name")  # type: ignore[misc]


def test_s17_our_account_alone_writes_what_was_done(
    plane: ControlPlane, engine: KubeApi, people: dict[str, KubeApi], case: str
) -> None:
    """A drain that nobody did cannot be written into a case, whatever roles somebody has."""
    done = {"step": "drain", "action": "drain", "operation": "x", "state": "running"}
    forged = {"status": {"attempts": [{**done, "startedAt": "2026-01-31T12:00:00Z"}]}}
    for api in (plane.admin, people["bob"]):
        refuses(lambda api=api: api.patch(f"{case}/status", forged), "gpuheal-cases", "only the responder may write")  # type: ignore[misc]
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
        refuses(lambda: engine.patch(case, {"metadata": {"labels": {"x": "y"}}}), "gpuheal-cases", "may not write")
    finally:
        plane.admin.delete(f"{BINDINGS}/too-much")
        plane.admin.delete(f"{ROLES}/too-much")
