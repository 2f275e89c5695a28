"""What NVML says about one GPU, asked group by group; the only module that imports pynvml.

It runs in the child process alone (nvml_child), because an NVML call may never return: then the process is replaced,
and the exporter goes on. Only the lightest imports are used here, since the child's memory counts towards the
exporter's.

A group is a function `Device -> dict` of plain JSON values; a value NVML does not have is left out. Codes and struct
layouts: nvml.h.
"""

from __future__ import annotations

import ctypes

import pynvml

from gpuheal_exporters.nvml.fields import (
    FIELD_LINK_COUNT,
    FIELD_NVLINK5,
    FIELD_NVLINK5_BER,
    FIELD_PCIE_ERRORS,
    FIELD_RECOVERY_ACTION,
    FIELD_THROTTLE_NS,
    FIELD_TLIMIT,
    NVLINK_COUNTERS,
    NVLINK_GENERATION,
    THRESHOLDS,
    bit_error_ratio,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

Values = dict[str, object]

NEVER = frozenset(
    {
        pynvml.NVML_ERROR_INVALID_ARGUMENT,
        pynvml.NVML_ERROR_NOT_SUPPORTED,
        pynvml.NVML_ERROR_NO_PERMISSION,
        pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
        pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH,
        pynvml.NVML_ERROR_DEPRECATED,
    }
)
"""Answers that stay the same while the driver stays loaded: the call is not made again before `Device.forget`."""
QUIET = NEVER - {pynvml.NVML_ERROR_NO_PERMISSION} | {pynvml.NVML_ERROR_NO_DATA, pynvml.NVML_ERROR_NOT_FOUND}
"""Answers that mean "this GPU has no such thing" and are not counted as errors."""
LOST = frozenset({pynvml.NVML_ERROR_GPU_IS_LOST, getattr(pynvml, "NVML_ERROR_GPU_NOT_FOUND", 28)})
DRIVER = frozenset(
    {
        pynvml.NVML_ERROR_UNINITIALIZED,
        pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
        pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
    }
)
"""Answers after which every handle is dead."""
UNSCOPED = 0xFFFFFFFF
MAX_LINKS = 36  # NVML_NVLINK_MAX_LINKS
MAX_MIG = 16


class DeviceLost(Exception):
    """NVML says the GPU is gone; `code` is its answer."""

    def __init__(self, code: int) -> None:
        self.code = code
        super().__init__(f"NVML {code}")


class DriverLost(DeviceLost):
    """NVML says the driver is gone or another one: start anew in a new process."""


class Device:
    """One GPU's handle and what it is known not to answer; `errors` counts the answers of the running group by NVML
    code.
    """

    def __init__(self, handle: Any) -> None:
        self.handle = handle
        self.errors: dict[int, int] = {}
        self.reset_required = False
        self._never: set[tuple[object, ...]] = set()

    def forget(self) -> None:
        """Ask again what was not supported: MIG or ECC mode may have changed."""
        self._never.clear()

    def ask(self, name: str, *args: Any) -> Any:
        """Return what `pynvml.nvmlDevice<name>(handle, *args)` does, None without an answer; raise DeviceLost."""
        key = (name, *(each for each in args if isinstance(each, int)))
        call: Callable[..., Any] | None = getattr(pynvml, "nvmlDevice" + name, None)
        if call is None or key in self._never:
            return None
        try:
            return call(self.handle, *args)
        except UnicodeDecodeError:  # a text in the InfoROM that is not UTF-8
            return None
        except pynvml.NVMLError as error:
            self.judge(error.value, key)
            return None

    def judge(self, code: int, key: tuple[object, ...] = ()) -> None:
        """Count, remember or raise an answer other than success."""
        if code in DRIVER:
            raise DriverLost(code)
        if code in LOST:
            raise DeviceLost(code)
        if code in NEVER and key:
            self._never.add(key)
        if code == pynvml.NVML_ERROR_RESET_REQUIRED:
            self.reset_required = True
        if code not in QUIET:
            self.errors[code] = self.errors.get(code, 0) + 1

    def fields(self, ids: list[tuple[int, int]]) -> list[int | float | None]:
        """Return the value of each (field, scope), in order; None where NVML has none."""
        wanted = [each for each in ids if ("field", *each) not in self._never]
        answers = self.ask("GetFieldValues", wanted) if wanted else None
        if answers is None:
            return [None] * len(ids)
        found: dict[tuple[int, int], int | float] = {}
        for each, answer in zip(wanted, answers, strict=True):
            if answer.nvmlReturn:
                self.judge(answer.nvmlReturn, ("field", *each))
            else:
                found[each] = _union(answer)
        return [found.get(each) for each in ids]

    def field(self, field: int) -> int | float | None:
        return self.fields([(field, UNSCOPED)])[0]

    def named_fields(self, fields: dict[str, int]) -> dict[str, int | float]:
        """Return the fields that have a value, by our name."""
        values = self.fields([(field, UNSCOPED) for field in fields.values()])
        return {name: value for name, value in zip(fields, values, strict=True) if value is not None}


_UNION = {0: "dVal", 1: "uiVal", 2: "ulVal", 3: "ullVal", 4: "sllVal", 5: "siVal", 6: "usVal"}


def _union(answer: Any) -> int | float:
    """Return the member that valueType names (nvmlValueType_t)."""
    value: int | float = getattr(answer.value, _UNION.get(answer.valueType, "ullVal"), 0)
    return value


def _kept(**values: object) -> Values:
    return {name: value for name, value in values.items() if value is not None}


def system() -> Values:
    """Return versions and the number of GPUs; raises pynvml.NVMLError when the count can't be had."""
    out: Values = {"count": int(pynvml.nvmlDeviceGetCount())}
    for name, call in (
        ("driver", pynvml.nvmlSystemGetDriverVersion),
        ("nvml", pynvml.nvmlSystemGetNVMLVersion),
        ("cuda", pynvml.nvmlSystemGetCudaDriverVersion_v2),
    ):
        try:
            out[name] = call()
        except pynvml.NVMLError:
            continue
    return out


def identity(device: Device) -> Values:
    """Return who the GPU is.

    `pci` is dddd:bb:dd from numbers, as the kernel log writes it; `slot` is what a technician looks for, if known.
    """
    device.forget()
    pci = device.ask("GetPciInfo")
    mode = device.ask("GetMigMode")
    return _kept(
        uuid=device.ask("GetUUID"),
        pci=None if pci is None else f"{pci.domain:04x}:{pci.bus:02x}:{pci.device:02x}",
        serial=device.ask("GetSerial"),
        product=device.ask("GetName"),
        minor=device.ask("GetMinorNumber"),
        slot=_slot(device),
        mig=None if mode is None else mode[0],
        mig_pending=None if mode is None else mode[1],
        instances=_instances(device) if mode and mode[0] else [],
    )


def _slot(device: Device) -> str | None:
    """Return `chassis C slot S tray T module M` on racks that tell (Blackwell), `module M` on HGX boards, else None."""
    struct: Callable[[], Any] | None = getattr(pynvml, "c_nvmlPlatformInfo_v2_t", None)
    if struct is not None:
        info = struct()
        if device.ask("GetPlatformInfo", ctypes.byref(info)) is not None:
            raw = bytes(info)  # the fields are chars: pynvml would decode numbers as text
            chassis = raw[20:36].split(b"\0")[0].decode("ascii", "replace").strip()
            slot, tray, module = raw[36], raw[37], raw[40]
            return f"chassis {chassis} slot {slot} tray {tray} module {module}"
    module_id = device.ask("GetModuleId")
    return None if module_id is None else f"module {module_id}"


def _instances(device: Device) -> list[Values]:
    """Return the MIG devices of this GPU: their UUID, GPU instance and compute instance."""
    found = []
    for index in range(min(device.ask("GetMaxMigDeviceCount") or 0, MAX_MIG)):
        handle = device.ask("GetMigDeviceHandleByIndex", index)
        if handle is None:
            continue
        mig = Device(handle)
        found.append(_kept(uuid=mig.ask("GetUUID"), gi=mig.ask("GetGpuInstanceId"), ci=mig.ask("GetComputeInstanceId")))
    return [each for each in found if "uuid" in each]


def recovery(device: Device) -> Values:
    """Return the driver's own verdict, after a call that goes to the GPU, so that a lost one is noticed.

    Cheap: asked most often.
    """
    pstate = device.ask("GetPerformanceState")
    action = device.field(FIELD_RECOVERY_ACTION)
    return _kept(pstate=pstate, action=action, reset_required=device.reset_required or None)


def memory(device: Device) -> Values:
    """Return ECC, SRAM, row remapping (Ampere and newer), page retirement (Volta and older), repairs pending."""
    out: Values = {}
    mode = device.ask("GetEccMode")
    if mode is not None:
        out["ecc"], out["ecc_pending"] = mode
    counts: Values = {}
    for severity, kind in (("corrected", 0), ("uncorrected", 1)):
        for lifetime, counter in (("volatile", 0), ("aggregate", 1)):
            counts[f"{severity}/{lifetime}/all"] = device.ask("GetTotalEccErrors", kind, counter)
            for place, location in (("dram", 2), ("sram", 7)):  # NVML_MEMORY_LOCATION_DRAM, _SRAM
                counts[f"{severity}/{lifetime}/{place}"] = device.ask("GetMemoryErrorCounter", kind, counter, location)
    out["errors"] = _kept(**counts)
    out.update(_sram(device))
    rows = device.ask("GetRemappedRows")
    if rows is not None:
        out["rows_correctable"], out["rows_uncorrectable"], out["rows_pending"], out["rows_failed"] = rows
    banks = device.ask("GetRowRemapperHistogram")
    if banks is not None:
        out["banks"] = {name: getattr(banks, name) for name in ("max", "high", "partial", "low", "none")}
    pages = {"single_bit": device.ask("GetRetiredPages_v2", 0), "double_bit": device.ask("GetRetiredPages_v2", 1)}
    out["pages"] = {cause: len(each) for cause, each in pages.items() if each is not None}
    repairs = device.ask("GetRepairStatus")
    return out | _kept(
        pages_pending=device.ask("GetRetiredPagesPendingStatus"),
        unrepairable=device.ask("GetUnrepairableMemoryFlag_v1"),
        channel_repair=repairs[0] if repairs else None,
        tpc_repair=repairs[1] if repairs else None,
    )


def _sram(device: Device) -> Values:
    struct: Callable[[], Any] | None = getattr(pynvml, "c_nvmlEccSramErrorStatus_v1_t", None)
    status = struct() if struct else None
    if status is None or device.ask("GetSramEccErrorStatus", ctypes.byref(status)) is None:
        return {}
    return {
        "sram_exceeded": status.bThresholdExceeded,
        "sram_kinds": {"parity": status.aggregateUncParity, "secded": status.aggregateUncSecDed},
        "sram_units": {
            "l2": status.aggregateUncBucketL2,
            "sm": status.aggregateUncBucketSm,
            "pcie": status.aggregateUncBucketPcie,
            "microcontroller": status.aggregateUncBucketMcu,
            "other": status.aggregateUncBucketOther,
        },
    }


def nvlink(device: Device) -> Values:
    """Return each link's state, and the error counters that are not zero, as {link: {kind: count}}.

    Up to Hopper counters are asked by call; NVLink5 refuses those and answers by fields, per link or, where it does
    not, per GPU (link "all"): which counters take a link is written nowhere, so both are tried.
    """
    count = min(int(device.field(FIELD_LINK_COUNT) or MAX_LINKS), MAX_LINKS)
    states: dict[str, int] = {}
    errors: dict[str, dict[str, int | float]] = {}
    fielded = False
    for link in range(count):
        state = device.ask("GetNvLinkState", link)
        if state is None:
            continue
        states[str(link)] = state
        counts = {
            kind: device.ask("GetNvLinkErrorCounter", link, number) for number, kind in enumerate(NVLINK_COUNTERS)
        }
        fielded = fielded or not any(value is not None for value in counts.values())
        nonzero = {kind: value for kind, value in counts.items() if value}
        if nonzero:
            errors[str(link)] = nonzero
    ratios: dict[str, dict[str, float]] = {}
    if states and fielded:
        errors, ratios = _nvlink5(device, [int(link) for link in states])
    generation = device.ask("GetNvLinkVersion", 0) if states else None
    return {"states": states, "errors": errors, "ratios": ratios} | _kept(
        version=None if generation is None else NVLINK_GENERATION.get(generation, str(generation))
    )


def _nvlink5(device: Device, links: list[int]) -> tuple[dict[str, dict[str, int | float]], dict[str, dict[str, float]]]:
    numbers = FIELD_NVLINK5 | {f"{kind} ratio": field for kind, field in FIELD_NVLINK5_BER.items()}
    asked = [(name, field, link) for name, field in numbers.items() for link in links]
    values = device.fields([(field, link) for _, field, link in asked])
    answered = {name for (name, _, _), value in zip(asked, values, strict=True) if value is not None}
    rest = [(name, field, UNSCOPED) for name, field in numbers.items() if name not in answered]
    values += device.fields([(field, UNSCOPED) for _, field, _ in rest])
    errors: dict[str, dict[str, int | float]] = {}
    ratios: dict[str, dict[str, float]] = {}
    for (name, _, link), value in zip(asked + rest, values, strict=True):
        if not value:
            continue
        where = "all" if link == UNSCOPED else str(link)
        if name.endswith(" ratio"):
            ratios.setdefault(where, {})[name.removesuffix(" ratio")] = bit_error_ratio(int(value))
        else:
            errors.setdefault(where, {})[name] = value
    return errors, ratios


def fabric(device: Device) -> Values:
    """Return state, status, health mask and membership, with the newest struct the driver takes (version 3, else 2)."""
    for name in ("c_nvmlGpuFabricInfo_v3_t", "c_nvmlGpuFabricInfo_v2_t"):
        struct: Callable[[], Any] | None = getattr(pynvml, name, None)
        if struct is None or (name,) in device._never:
            continue
        info = struct()
        try:
            pynvml.nvmlDeviceGetGpuFabricInfoV(device.handle, ctypes.byref(info))
        except pynvml.NVMLError as error:
            device.judge(error.value, (name,))
            continue
        uuid = bytes(info.clusterUuid).hex()
        return _kept(
            state=info.state,
            status=info.status,
            mask=info.healthMask,
            summary=getattr(info, "healthSummary", None),
            cluster=uuid if int(uuid, 16) else "",
            clique=info.cliqueId,
        )
    return {}


def pcie(device: Device) -> Values:
    """Return link generation and width with what the pair of device and slot can do, load at that moment, replays and
    errors.
    """
    utilization = device.ask("GetUtilizationRates")
    return _kept(
        utilization=None if utilization is None else utilization.gpu,
        pstate=device.ask("GetPerformanceState"),
        generation=device.ask("GetCurrPcieLinkGeneration"),
        generation_max=device.ask("GetMaxPcieLinkGeneration"),
        width=device.ask("GetCurrPcieLinkWidth"),
        width_max=device.ask("GetMaxPcieLinkWidth"),
        replays=device.ask("GetPcieReplayCounter"),
        errors={kind: value for kind, value in device.named_fields(FIELD_PCIE_ERRORS).items() if value},
    )


def thermal(device: Device) -> Values:
    """Return temperatures (deg C) beside the device's limits, power (mW), clocks event reasons and throttled time (ns),
    persistence.
    """
    reasons = device.ask("GetCurrentClocksEventReasons")
    if reasons is None:  # drivers before 535 know the older name only
        reasons = device.ask("GetCurrentClocksThrottleReasons")
    limits = {name: device.ask("GetTemperatureThreshold", number) for name, number in THRESHOLDS.items()}
    return _kept(
        temperature=device.ask("GetTemperature", 0),
        memory_temperature=device.field(82) or None,  # 0 where the memory has no sensor
        limits=_kept(**limits),
        margin=device.ask("GetMarginTemperature"),
        margins=device.named_fields(FIELD_TLIMIT),
        power_mw=device.ask("GetPowerUsage"),
        power_limit_mw=device.ask("GetEnforcedPowerLimit"),
        reasons=reasons,
        throttled_ns=device.named_fields(FIELD_THROTTLE_NS),
        persistence=device.ask("GetPersistenceMode"),
    )


GROUPS: dict[str, Callable[[Device], Values]] = {
    "identity": identity,
    "recovery": recovery,
    "memory": memory,
    "nvlink": nvlink,
    "fabric": fabric,
    "pcie": pcie,
    "thermal": thermal,
}
