"""Numbers of nvml.h that the probes ask for, by our name; see nvmlDeviceGetFieldValues there for units."""

from __future__ import annotations

FIELD_LINK_COUNT = 91
FIELD_RECOVERY_ACTION = 230  # NVML_FI_DEV_GET_GPU_RECOVERY_ACTION, driver 565 and newer
FIELD_THROTTLE_NS = {
    "power": 74,  # NVML_FI_DEV_PERF_POLICY_POWER, nanoseconds
    "thermal": 75,
    "board_limit": 77,
    "reliability": 79,
    "sw_thermal": 269,  # NVML_FI_DEV_CLOCKS_EVENT_REASON_SW_THERM_SLOWDOWN
    "hw_thermal": 270,
    "hw_power_brake": 271,
}
FIELD_PCIE_ERRORS = {
    "correctable": 173,
    "nak_received": 174,
    "receiver": 175,
    "bad_tlp": 176,
    "nak_sent": 177,
    "bad_dllp": 178,
    "non_fatal": 179,
    "fatal": 180,
    "unsupported_request": 181,
    "lcrc": 182,
}
FIELD_TLIMIT = {"shutdown": 193, "slowdown": 194, "memory": 195, "gpu_max": 196}
FIELD_NVLINK5 = {
    "malformed": 206,
    "buffer_overrun": 207,
    "receive": 208,
    "remote": 209,
    "general": 210,
    "local_integrity": 211,
    "transmit_discard": 212,
    "recovery_successful": 213,
    "recovery_failed": 214,
    "effective": 219,
    "symbol": 221,
}
FIELD_NVLINK5_BER = {"effective": 220, "symbol": 222}
NVLINK_COUNTERS = (
    "replay",
    "recovery",
    "crc_flit",
    "crc_data",
    "ecc",
)  # NVML_NVLINK_ERROR_DL_REPLAY = 0 ... ECC_DATA = 4
NVLINK_GENERATION = {
    1: "1.0",
    2: "2.0",
    3: "2.2",
    4: "3.0",
    5: "3.1",
    6: "4.0",
    7: "5.0",
    8: "6.0",
}  # NVML_NVLINK_VERSION_*
THRESHOLDS = {"shutdown": 0, "slowdown": 1, "memory": 2, "gpu_max": 3}  # NVML_TEMPERATURE_THRESHOLD_*


def bit_error_ratio(packed: int) -> float:
    """Return the ratio that nvml.h packs into a *_BER field: bits 8-11 x 10^-(bits 0-7), so 0x50c is 5e-12."""
    return float((packed >> 8 & 0xF) * 10.0 ** -(packed & 0xFF))
