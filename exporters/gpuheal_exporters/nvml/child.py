"""The process that may get stuck: it answers one JSON line on stdout for each JSON line on stdin.

Requests  {"id": 7, "op": "start", "root": "/"} | {"id": 8, "op": "group", "group": "memory", "index": 3} | {"id": 9,
"op": "count"} Answers   {"id": 8, "ok": {...}, "errors": {"999": 1}} | {"id": 8, "code": 15, "lost": true} | {"id": 7,
"code": 9}

It ends after nvmlShutdown when stdin ends, whatever became of the parent; SIGTERM and SIGINT are left to the parent,
so that a signal to the whole group never cuts an NVML call short. The parent alone decides to kill it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import types

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MAX_GPUS = 64


def proc_gpus(root: str) -> list[dict[str, str]]:
    """Return what the kernel module says about its GPUs, without NVML: `pci` (dddd:bb:dd), `uuid`, `product`.

    Source: /proc/driver/nvidia/gpus/<address>/information (nv-procfs.c). Read here since the module may block as NVML
    may.
    """
    folder = os.path.join(root, "proc/driver/nvidia/gpus")
    found = []
    try:
        names = sorted(os.listdir(folder))[:MAX_GPUS]
    except OSError:
        return []
    for name in names:
        try:
            with open(os.path.join(folder, name, "information"), encoding="utf-8", errors="replace") as file:
                pairs = [line.split(":", 1) for line in file.read(4096).splitlines() if ":" in line]
        except OSError:
            continue
        said = {key.strip(): value.strip() for key, value in pairs}
        if said.get("GPU Excluded", "No") == "Yes":  # by NVreg_ExcludedGpus: NVML does not list it either
            continue
        gpu = {
            "pci": name.rsplit(".", 1)[0].lower(),
            "product": said.get("Model", ""),
            "minor": said.get("Device Minor", ""),
        }
        uuid = said.get("GPU UUID", "")
        if uuid.startswith("GPU-") and "?" not in uuid:  # question marks: the driver could not read it
            gpu["uuid"] = uuid
        found.append(gpu)
    return found


class Session:
    """NVML between nvmlInit and nvmlShutdown."""

    def __init__(self) -> None:
        self._nvml: Any = None
        self._devices: dict[int, Any] = {}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the answer to one request; an NVML code is an answer, not an exception."""
        op = request["op"]
        if op == "proc":
            return {"ok": {"gpus": proc_gpus(request.get("root", "/"))}}
        if self._nvml is None:
            self._nvml = _import_nvml()
        nvml = self._nvml
        try:
            if op == "start":
                nvml.pynvml.nvmlInitWithFlags(1)  # NVML_INIT_FLAG_NO_GPUS: a node without GPUs is not an error
                return {"ok": nvml.system()}
            if op == "count":
                return {"ok": {"count": int(nvml.pynvml.nvmlDeviceGetCount())}}
            return self._group(request["group"], int(request["index"]))
        except nvml.DriverLost as lost:
            return {"code": lost.code, "driver": True}
        except nvml.DeviceLost as lost:
            return {"code": lost.code, "lost": True}
        except nvml.pynvml.NVMLError as error:
            return {"code": error.value, "lost": error.value in nvml.LOST, "driver": error.value in nvml.DRIVER}

    def _group(self, group: str, index: int) -> dict[str, Any]:
        device = self._devices.get(index)
        if device is None:
            device = self._nvml.Device(self._nvml.pynvml.nvmlDeviceGetHandleByIndex(index))
            self._devices[index] = device
        device.errors = {}
        device.reset_required = False
        return {"ok": self._nvml.GROUPS[group](device), "errors": device.errors}

    def close(self) -> None:
        """Let NVML go of the GPUs, if it was ever started."""
        if self._nvml is None:
            return
        try:
            self._nvml.pynvml.nvmlShutdown()
        except self._nvml.pynvml.NVMLError:
            return


def _import_nvml() -> Any:
    """Return gpuheal_exporters.nvml.probe, loaded without the 2 MB behind ctypes.util.

    pynvml imports `find_library` from it and never calls it on Linux; the real module pulls in shutil, subprocess, bz2
    and lzma.
    """
    slim = types.ModuleType("ctypes.util")
    slim.__dict__["find_library"] = lambda name: None  # noqa: ARG005
    sys.modules.setdefault("ctypes.util", slim)
    from gpuheal_exporters.nvml import probe

    return probe


def main() -> int:
    """Answer until stdin ends; return the exit status 0."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # the driver's library may print; our lines must stay ours
    session = Session()
    try:
        for line in sys.stdin:
            request = json.loads(line)
            answers.write(json.dumps({"id": request["id"], **session.answer(request)}) + "\n")
            answers.flush()
    except BrokenPipeError:
        pass  # the parent is gone: let go of the GPUs and end
    finally:
        session.close()
    os._exit(0)  # skips interpreter teardown: the answers' pipe may be broken, and nothing else is left to do


if __name__ == "__main__":
    sys.exit(main())
