"""Tells from two pictures of NVML that a GPU has come back from a reset."""

from __future__ import annotations

from dataclasses import dataclass

from gpuheal_exporters.nvml.snapshot import NvmlSnapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    present: bool
    action: float | None


class ResetWatch:
    """Remembers presence and recovery action of each GPU from one snapshot to the next."""

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}

    def update(self, snapshot: NvmlSnapshot) -> list[str]:
        """Return the UUIDs of GPUs that were reset since the last snapshot, as far as NVML proves it.

        Proof is a GPU that NVML had called lost (code 15 stays until the device is initialised anew) and that answers
        again, or a recovery action that went back to 0, which is what the driver logs as Xid 154 to None. A GPU seen
        for the first time proves nothing.
        """
        if not snapshot.serving:
            return []
        reset = []
        for gpu in snapshot.gpus:
            before = self._seen.get(gpu.uuid)
            now = _Seen(present=gpu.present, action=gpu.reading("recovery").number("action"))
            self._seen[gpu.uuid] = now
            if before is None or not now.present:
                continue
            if not before.present or (before.action and now.action == 0):
                reset.append(gpu.uuid)
        return reset
