"""What people set at run time, in one ConfigMap, joined with what the state of the pipeline allows.

```yaml
apiVersion: v1
kind: ConfigMap
metadata: {name: gpuheal-controls, namespace: gpuheal}
data:
  paused: "ann: rack work until noon"   # any text stops every next step; empty or absent lets them go on
  mode: observe                         # caps every policy: observe, propose or enforce
  released: rack/r1, pool/h100          # domains whose incident a person has looked at: their nodes are healed again;
                                        # it is about incidents that had begun when this was written
```
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from urllib.parse import quote

from gpuheal_responder.core.mode import Mode
from gpuheal_responder.core.world import Controls
from gpuheal_responder.rights import Right
from gpuheal_responder.shell.kube.api import Api, ApiError, reading
from gpuheal_responder.shell.sources.deadman import Pipeline

MOST_RELEASED = 256


def rights(namespace: str, name: str) -> tuple[Right, ...]:
    """Return the right to read the ConfigMap."""
    why = "What people set at run time; only they write it."
    return (Right(group="", resources=("configmaps",), verbs=("get",), why=why, namespace=namespace, names=(name,)),)


@dataclass(frozen=True, slots=True, kw_only=True)
class KubeControls:
    """The port ControlSource on a ConfigMap; `mode` is the cap of the settings, which the ConfigMap can only lower."""

    api: Api
    namespace: str
    name: str
    mode: Mode
    pipeline: Pipeline

    async def controls(self) -> Controls:
        """Return what is in force; ObserveError when the ConfigMap cannot be read, for then nobody knows."""
        path = f"/api/v1/namespaces/{quote(self.namespace)}/configmaps/{quote(self.name)}"
        raw: Mapping[str, Any] = {}
        with reading(f"controls {self.namespace}/{self.name}"):
            try:
                raw = await self.api.get(path)
            except ApiError as problem:
                if problem.status != 404:
                    raise
        found = controls_of(raw.get("data") or {}, self.mode, await self.pipeline.frozen())
        return replace(found, released_at=written_at(raw.get("metadata") or {}, "released"))


def written_at(metadata: Mapping[str, Any], key: str) -> datetime | None:
    """Return when this key of the data was last written, by the API server's own record of who manages which field."""
    times = [
        entry["time"]
        for entry in metadata.get("managedFields") or ()
        if f"f:{key}" in (entry.get("fieldsV1") or {}).get("f:data", {}) and entry.get("time")
    ]
    return max((datetime.fromisoformat(time) for time in times), default=None)


def controls_of(data: Mapping[str, str], mode: Mode, frozen: str) -> Controls:
    """Return the controls that a ConfigMap's data mean; a mode nobody knows pauses, for its author meant something."""
    paused = data.get("paused", "").strip()
    wanted = data.get("mode", "").strip()
    if wanted and wanted not in list(Mode):
        paused = paused or f"unknown mode {wanted!r} in the controls; everything is paused until it is fixed"
    elif wanted:
        mode = min(mode, Mode(wanted), key=lambda m: m.rank)
    released = tuple(sorted({where.strip() for where in data.get("released", "").split(",") if where.strip()}))
    return Controls(paused=paused, mode=mode, frozen=frozen, released=released[:MOST_RELEASED])
