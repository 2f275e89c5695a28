"""The API server as a person's command line reaches it: arguments, connection, and who that person is."""

from __future__ import annotations

import argparse
import getpass
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpuheal_responder.shell.kube.api import Api
    from gpuheal_responder.shell.kube.remediations import KubeRemediations

SYNC = timedelta(seconds=60)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say which API server is meant."""
    parser.add_argument(
        "--kubeconfig",
        type=Path,
        help="kubeconfig file (default: $KUBECONFIG, else the pod's service account, else ~/.kube/config)",
    )
    parser.add_argument("--context", default="", help="kubeconfig context (default: the current context)")


@asynccontextmanager
async def connected(args: argparse.Namespace) -> AsyncIterator[Api]:
    """Give a connection while the context lasts; ConfigError when the kubeconfig can't be used."""
    from gpuheal_responder.config.settings import Kubernetes
    from gpuheal_responder.shell.build import api_of

    api = await api_of(Kubernetes(kubeconfig=args.kubeconfig, context=args.context))
    try:
        yield api
    finally:
        await api.close()


@asynccontextmanager
async def remediations_of(api: Api) -> AsyncIterator[KubeRemediations]:
    """Give all Remediations, listed, while the context lasts; ObserveError when they can't be listed."""
    from gpuheal_responder.shell.kube.api import reading
    from gpuheal_responder.shell.kube.remediations import PATH, KubeRemediations

    with reading("remediations"):  # following would try again and again what is forbidden or not installed
        await api.get(PATH, {"limit": 1})
    found = KubeRemediations(api)
    found.start()
    try:
        await found.mirror.wait_synced(SYNC)
        yield found
    finally:
        await found.stop()


async def whoami(api: Api) -> str:
    """Return the name the API server knows the caller by; servers before 1.28 don't tell, there it is the local user's.

    SelfSubjectReview: https://kubernetes.io/docs/reference/access-authn-authz/authentication/#self-subject-review
    """
    from gpuheal_responder.shell.kube.api import ApiError, reading

    kind = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    with reading("SelfSubjectReview"):
        try:
            answer = await api.call("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", body=kind)
        except ApiError as problem:
            if problem.status != 404:
                raise
            return f"{getpass.getuser()} (local user)"
    return str(answer["status"]["userInfo"]["username"])


async def may_approve(api: Api, name: str) -> bool:
    """Return whether the caller may approve: the right that the responder's own route asks for."""
    from gpuheal_responder.shell.kube.api import reading
    from gpuheal_responder.shell.kube.review import APPROVE

    body = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": dict(APPROVE.attributes(name)),
    }
    with reading("SelfSubjectAccessReview"):
        answer = await api.call("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", body=body)
    return answer["status"].get("allowed") is True
