"""What a request shows of itself: a bearer token, a client certificate, and whether others could read along."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection

from aiohttp import web

from gpuheal_responder.shell.kube.review import Denial


def bearer(request: web.Request) -> str:
    """Return the bearer token of a request, or an empty text."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def refused(denial: Denial) -> web.Response:
    """Return the answer to somebody who may not."""
    headers = {"WWW-Authenticate": "Bearer"} if denial.status == 401 else {}
    return web.Response(text=f"{denial.message}\n", status=denial.status, headers=headers)


def certificate_names(request: web.Request) -> Collection[str]:
    """Return the names in the client certificate that TLS has verified: its DNS names, else its common name."""
    shown = request.transport.get_extra_info("peercert") if request.transport is not None else None
    if not shown:
        return ()
    names = [value for kind, value in shown.get("subjectAltName", ()) if kind == "DNS"]
    if names:
        return names
    return [value for part in shown.get("subject", ()) for key, value in part if key == "commonName"]


def peer(request: web.Request) -> object:
    """Return the other end's address as the socket knows it; headers that claim another one are not believed."""
    return request.transport.get_extra_info("peername") if request.transport is not None else None


def readable_by_others(request: web.Request) -> bool:
    """Return whether the request crossed a network without TLS.

    Loopback does not: `kubectl port-forward` comes in there, and a mesh's proxy that has ended its TLS.
    """
    if request.secure:
        return False
    address = peer(request)
    try:
        return not (isinstance(address, tuple) and ipaddress.ip_address(str(address[0])).is_loopback)
    except ValueError:
        return True
