"""Jobs on a real API server, for the provider that reboots by them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from gpuheal_responder.shell.kube.api import METADATA_ONLY, Api, ApiError, changing, reading


class KubeJobs:
    """The protocol Jobs of the providers."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def create(self, manifest: Mapping[str, Any]) -> bool:
        """Create the Job; False if one of this name exists already."""
        name, namespace = manifest["metadata"]["name"], manifest["metadata"]["namespace"]
        with changing(f"job {namespace}/{name}"):
            try:
                await self._api.call("POST", _path(namespace), body=manifest, accept=METADATA_ONLY)
            except ApiError as problem:
                if problem.status == 409 and problem.reason == "AlreadyExists":
                    return False
                raise
        return True

    async def get(self, namespace: str, name: str) -> Mapping[str, Any] | None:
        """Return the Job, or None; ObserveError if it cannot be read."""
        with reading(f"job {namespace}/{name}"):
            try:
                found: Mapping[str, Any] = await self._api.get(f"{_path(namespace)}/{quote(name)}")
            except ApiError as problem:
                if problem.status == 404:
                    return None
                raise
        return found

    async def delete(self, namespace: str, name: str) -> None:
        """Remove the Job, and have the garbage collector remove its pods; no error if it is gone."""
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        with changing(f"job {namespace}/{name}"):
            try:
                await self._api.call("DELETE", f"{_path(namespace)}/{quote(name)}", body=body, accept=METADATA_ONLY)
            except ApiError as problem:
                if problem.status != 404:
                    raise


def _path(namespace: str) -> str:
    return f"/apis/batch/v1/namespaces/{quote(namespace)}/jobs"
