"""How long texts and lists of a stored case may be, and cutting what is longer: nothing can make a case unstorable."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LONGEST = 1024
LENGTHS: Mapping[str, int] = {
    "node": 253,  # RFC 1123 names, as all of Kubernetes
    "nodeUID": 64,
    "systemUUID": 128,
    "bootID": 64,
    "gpuUUID": 128,
    "policy": 63,
    "slug": 63,
    "action": 63,
    "evidence": 64,
    "step": 256,
    "xid": 64,
    "reason": 128,
    "escalated": 128,
    "peer": 512,
    "operation": 512,
    "provider": 128,
    "by": 4096,
    "detail": 8192,
}
"""Longest texts by key; all others may be as long as LONGEST."""
MOST = 256
SIZES: Mapping[str, int] = {"approvals": 32, "attempts": 128, "suppressions": 64, "gangs": 1024}
"""Largest lists and mappings by key; all others may hold MOST."""
NEWEST_LAST = frozenset({"attempts"})
"""Lists of which the last entries are kept; of all others the first."""


def fit(data: Any, key: str = "") -> Any:
    """Return plain data with texts, lists and mappings cut to what the CRD allows under this key."""
    match data:
        case str():
            return data[: LENGTHS.get(key, LONGEST)]
        case list():
            most = SIZES.get(key, MOST)
            kept = data[-most:] if key in NEWEST_LAST else data[:most]
            return [fit(item, key) for item in kept]
        case dict():
            return {name: fit(value, name) for name, value in list(data.items())[: SIZES.get(key, MOST)]}
        case _:
            return data
