"""What tests of admission policies share: a reboot Job, an account under the policies, what a refusal looks like."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from gpuheal_lab.controlplane.kubeapi import ApiRefused, KubeApi
from gpuheal_lab.controlplane.plane import ControlPlane
from gpuheal_lab.servers.stack import wait_for
from gpuheal_responder.core.node import Node
from gpuheal_responder.providers.job import JobSettings, manifest

Json = dict[str, Any]
JOBS = "/apis/batch/v1/namespaces/{namespace}/jobs?dryRun=All"
NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
IMAGE = "tools@sha256:" + "0" * 64
DENIED = "ValidatingAdmissionPolicy '{policy}'"


def job(namespace: str = "gpuheal-privileged") -> Json:
    """The reboot Job as the provider makes it."""
    node = Node(name="gpu-1", uid="u", boot_id="5b2f2f0e-7c3f-4b5e-8f4b-1d2c3b4a5968")
    return manifest(node, "gpu-1-1-reboot-1", JobSettings(image=IMAGE, namespace=namespace), NOW)


def restrained(plane: ControlPlane) -> KubeApi:
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
