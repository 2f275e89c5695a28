"""Rights that a part needs of the API server, as data: the roles in deploy/kustomize are made from them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Right:
    """Verbs on resources: everywhere, or in one namespace, or on the objects of these names only. `why` is told."""

    group: str
    resources: tuple[str, ...]
    verbs: tuple[str, ...]
    why: str
    namespace: str = ""
    names: tuple[str, ...] = ()
