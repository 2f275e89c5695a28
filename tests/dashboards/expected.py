"""What every panel shows at the end of the story, and some before: by panel id.

A panel has the names of its series with their values, or the rows of its table, column by column. Node shows a-2, GPU
the first GPU of a-3, unless WHERE says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tests.dashboards.story import BEGIN, END, short, uuid

Lines = Mapping[str, float]
Rows = Sequence[tuple[str | float, ...]]

NOW = END * 1000
"""In the milliseconds that Grafana takes for times."""
XID_79, XID_63, XID_43, AER = (BEGIN * 1000 + int(minute * 60_000) for minute in (79.5, 59.5, 112, 60.5))

EXPECTED: Mapping[int, Lines | Rows] = {
    101: {"ok": 8, "degraded": 2, "suspect": 0, "faulty": 1, "lost": 1, "unknown": 2},  # GPUs by state
    102: {"": 0.6429},  # Capacity lost
    103: {"": 5},  # Good GPUs out of service
    104: {"": 3},  # Nodes with an open case
    105: {"critical-training": 1, "inference": 1, "preemptible": 2},  # Nodes by tier
    106: {"": 14},  # GPUs
    107: {"critical": 5, "info": 1, "warning": 7},  # Firing alerts
    111: {"1": 2, "3": 1, "4": 1, "5": 2},  # GPUs that are not ok
    112: {"capacity lost": 0.6429},  # Capacity lost
    113: {
        "app-gpu-error": 1,
        "gpu-fell-off-bus": 1,
        "gpu-gsp-timeout": 1,
        "gpu-row-remap-pending": 1,
        "gpu-thermal": 1,
        "nvlink-degraded": 1,
    },  # Active faults
    114: {"critical-training": 1, "inference": 1, "preemptible": 2},  # Nodes by tier
    115: {"rack": 1, "NVLink domain": 1, "driver version": 1},  # Nodes that went bad within 30m, most in one place
    116: {"1": 8, "above 0.9": 1, "0.7 to 0.9": 1, "below 0.7": 2},  # GPUs by score
    121: [
        ("a-2", uuid("a-2", 1), 0, 4, 1),
        ("a-5", uuid("a-5", 0), 0.6, 3, 1),
        ("a-3", uuid("a-3", 0), 0.72, 1, 2),
        ("a-3", uuid("a-3", 1), 0.9833, 1, 1),
    ],  # GPUs with the lowest scores
    122: [
        ("GPUAppError", "info", 1),
        ("GPUFellOffBus", "critical", 1),
        ("GPUGSPTimeout", "critical", 1),
        ("GPUHealActionPending", "warning", 1),
        ("GPUHealDCGMExporterDown", "warning", 1),
        ("GPUHealExporterDown", "warning", 1),
        ("GPUHealIncident", "critical", 1),
        ("GPUHealKernelLogLost", "warning", 1),
        ("GPUHealNotificationsDropped", "critical", 1),
        ("GPUHealRuleFailures", "critical", 1),
        ("GPURowRemapPending", "warning", 1),
        ("GPUThermal", "warning", 1),
        ("NVLinkDegraded", "warning", 1),
    ],  # Firing alerts by name
    123: [("a-4", 2)],  # Nodes with unknown GPUs
    131: [("r2", 2, 0.5), ("r1", 1, 0.125), ("r3", 1, 0.5)],  # By rack
    132: [
        ("NVIDIA H100 80GB HBM3", 10, 1),
        ("not reported", 2, 2),
        ("NVIDIA A100-SXM4-80GB", 2, 1),
    ],  # By model
    133: [("580.65.06", 10, 1), ("not reported", 2, 2), ("570.86.15", 2, 1)],  # By driver
    134: [("rack:r2", "correlated", "gpu-missing", 3)],  # Incidents
    201: {"": 0},  # Score
    202: {"preemptible": 1},  # Tier
    203: {"0": 3, "4": 1},  # GPUs by state
    204: {"": 93600},  # Uptime
    205: {"580.65.06": 1},  # Driver
    206: {"operation": 1},  # Guards
    207: {"case-pending": 1},  # Problems of telemetry and cases
    208: [("gpu-fell-off-bus", "pending", "reboot", "cure", "approval-needed")],  # Case
    209: [("GPUFellOffBus", "critical", uuid("a-2", 1)), ("GPUHealActionPending", "warning", "")],  # Firing alerts
    211: {"0 GPU-a-2-0000": 0, "1 GPU-a-2-0001": 4, "2 GPU-a-2-0002": 0, "3 GPU-a-2-0003": 0},  # State of each GPU
    212: {
        "gpu-fell-off-bus · dcgm · GPU-a-2-0001": 1,
        "gpu-fell-off-bus · kernel · GPU-a-2-0001": 1,
        "gpu-fell-off-bus · nvml · GPU-a-2-0001": 1,
    },  # Evidence
    213: {"dcgm": 1, "exporter": 1},  # Sources
    221: {short("a-2", 0): 1, short("a-2", 1): 0, short("a-2", 2): 1, short("a-2", 3): 1},  # Score of each GPU
    222: {short("a-2", 0): 50, short("a-2", 2): 50, short("a-2", 3): 50},  # Temperature
    223: {short("a-2", 0): 400, short("a-2", 2): 400, short("a-2", 3): 400},  # Power
    224: {short("a-2", 0): 90, short("a-2", 2): 90, short("a-2", 3): 90},  # Utilisation
    225: {short("a-2", 0): 1, short("a-2", 2): 1, short("a-2", 3): 1},  # NVLinks that are up
    226: {short("a-3", 0): 600},  # Corrected ECC errors of a day
    231: {f"sw_thermal_slowdown · {short('a-3', 0)}": 1},  # Clocks held back
    232: {"mlx5_0/1": 4},  # Network ports
    233: [("train", "llm-7", "worker", uuid("a-2", 1))],  # Pods
    234: {"fabric_manager": 1, "NVML": 1, "kernel log": 1},  # Software
    301: {"": 1},  # State
    302: {"": 0.72},  # Score
    303: {"ecc": 0.8, "thermal": 0.9},  # What lowers the score
    304: [("a-3", "NVIDIA H100 80GB HBM3", "160", "0", "0000:10:00")],  # Identity
    305: [("gpu-row-remap-pending", 0.99, 2), ("gpu-thermal", 0.9, 1)],  # Faults
    306: [
        ("gpu-row-remap-pending", "kernel", "xid", "strong", XID_63),
        ("gpu-row-remap-pending", "nvml", "row_remap_pending", "strong", NOW),
        ("gpu-thermal", "nvml", "clocks_thermal", "strong", NOW),
    ],  # Evidence
    311: [("79", 1, XID_79, XID_79, "reboot", "critical", "gpu")],  # Xids
    312: [("43", XID_43)],  # Xids that only dcgm-exporter shows
    313: {"Xid 79": 1},  # Latched Xids over time
    314: [("aer", "corrected", AER)],  # Other faults in the log
    321: {"row remap pending": 1, "row remap failed": 0, "not repairable": 0, "SRAM threshold": 0},  # Memory flags
    322: {"correctable": 3},  # Remapped rows
    323: {"corrected dram": 600},  # ECC errors per hour
    324: {"corrected errors": 600, "threshold": 1000},  # Corrected ECC errors of a day
    325: {"max": 640, "high": 0, "partial": 2, "low": 0, "none": 0},  # Banks by spare rows
    331: {"active": 18, "expected": 18},  # NVLinks
    332: {"crc": 60, "threshold": 100},  # NVLink errors per hour
    333: {"link 5": 1},  # Links that are down
    334: {"lanes": 16, "supported": 16},  # PCIe width
    335: {"under load": 5, "supported": 5},  # PCIe generation under load
    336: {"replays": 60, "threshold": 100},  # PCIe replays per hour
    341: {"GPU": 80, "memory": 60, "limit: shutdown": 92, "limit: slowdown": 87},  # Temperature
    342: {"margin": 37, "threshold": 3},  # Margin to the thermal limit
    343: {"power": 400, "limit": 700},  # Power
    344: {"sw_thermal_slowdown": 1},  # Clocks held back
    345: [("train", "llm-7", "worker")],  # Pods
    401: {"pending": 1, "waiting": 2},  # Open cases by state
    402: {"": 1},  # Approvals waiting
    403: {"": 0},  # Budget for taints spent
    404: {"": 0},  # Frozen
    405: {"pool-budget": 1},  # Held by a budget
    406: {"no-policy": 2},  # Faults that open no case
    407: {"cases": 0, "undo records": 0},  # Cases that cannot be read
    411: [
        ("a-3", "gpu-row-remap-pending", "waiting", "drain", "cure", "eviction-blocked", "a-3-first", 3495),
        ("a-2", "gpu-fell-off-bus", "pending", "reboot", "cure", "approval-needed", "a-2-second", 2355),
        ("a-5", "gpu-gsp-timeout", "waiting", "taint", "contain", "pool-budget", "a-5-first", 555),
    ],  # Open cases
    412: [("approval-needed", 1), ("pool-budget", 1), ("eviction-blocked", 1)],  # What blocks
    413: {"pending": 1, "waiting": 2},  # Open cases by state
    414: {"tainted by gpuheal": 2, "cordoned": 2},  # Nodes out of service
    415: [("rack:r2", "correlated", "gpu-missing", 3)],  # Incidents
    421: [("taint", "done", 6, 4, 9.55), ("reboot", "reboot-deadline", 3, 600, 870)],  # Steps
    422: {"act": 6, "wait": 12},  # Decisions per hour
    431: {"median": 135, "longest": 195},  # Time to taint
    432: {"median": 1815, "longest": 1815},  # Time to repair
    433: {"opened": 4, "ended": 1},  # Cases opened and ended
    434: [("a-2", "a-2-first", 1815)],  # Cases that ended
    435: [("a-2", 2)],  # Relapses
    501: {"": 1},  # Watchdog
    502: {"": 0},  # Frozen
    503: {"": 1},  # Leaders
    504: {"": 10},  # Last good round
    505: {"": 0.8},  # Nodes with gpuheal's exporter
    506: {"": 0.8},  # Nodes with dcgm-exporter
    511: {"case-pending": 1, "dcgm-down": 1, "exporter-down": 1},  # Problems by kind
    512: [("a-2", "case-pending"), ("a-4", "dcgm-down"), ("a-4", "exporter-down")],  # Nodes with problems
    513: {"dcgm": 1, "exporter": 1},  # Silent sources
    514: {"unknown": 0.1429},  # Unknown GPUs
    515: [("a-3", 12)],  # Kernel log records lost within 15m
    516: {"node-name": 6},  # Evidence that was ignored
    521: {
        "/etc/prometheus/rules/gpuheal.yml;gpuheal": 0.8,
        "/etc/prometheus/rules/gpuheal.yml;gpuheal-slow": 0.2,
        "shortest interval": 60,
    },  # Evaluation of the rules
    522: {"failed": 0, "missed": 8},  # Evaluations that failed or were missed within 5m
    523: {"errors": 0, "dropped": 12},  # Prometheus to Alertmanager within 5m
    524: {"webhook": 4},  # Failed notifications of Alertmanager within 5m
    525: {"median": 0.3, "99th percentile": 0.496},  # Webhook: time to deliver
    526: {"median": 0.05, "99th percentile": 0.099},  # Webhook: time to answer
    531: {"200": 20, "503": 4},  # Deliveries within 5m
    532: {"median": 0.3, "99th percentile": 0.496},  # Duration of a round
    533: {"prometheus": 8},  # Failed reads within 5m
    534: {"cpu": 0.01, "wall": 0.03},  # Longest stall of the event loop
    535: [("unknown-fault", 3)],  # Alerts that cannot be used
    536: {"": 1},  # Failed reloads within a day
    537: {"responder 0.1.0": 1, "exporter 0.1.0": 1},  # Versions
}
"""At the end of the story."""

WHERE: Mapping[int, tuple[str, int]] = {
    206: ("a-3", 0),
    226: ("a-3", 0),
    231: ("a-3", 0),
    311: ("a-2", 1),
    312: ("a-5", 1),
    313: ("a-2", 1),
    332: ("a-3", 1),
    333: ("a-3", 1),
    345: ("a-2", 1),
}
"""Node and GPU that a panel is asked about, where the usual ones have nothing to show."""

THEN: Mapping[int, Mapping[int, Lines]] = {
    111: {50: {}, 65: {"1": 1}, 90: {"1": 2, "4": 1}},
    112: {10: {"capacity lost": 0}, 30: {"capacity lost": 0.2857}, 60: {"capacity lost": 0}},
    113: {50: {}, 65: {"gpu-row-remap-pending": 1, "gpu-thermal": 1}},
    114: {50: {"critical-training": 5}},
    211: {70: {f"{gpu} GPU-a-2-000{gpu}": 0 for gpu in range(4)}},
    212: {70: {}},
    221: {70: {short("a-2", gpu): 1 for gpu in range(4)}},
    222: {70: {short("a-2", gpu): 50 for gpu in range(4)}},
    313: {70: {}},
    323: {60: {"corrected dram": 0}, 90: {"corrected dram": 300}},
    341: {50: {"GPU": 50, "memory": 60, "limit: shutdown": 92, "limit: slowdown": 87}},
    413: {10: {}, 30: {"acting": 1}, 70: {"waiting": 1}, 85: {"acting": 1, "waiting": 1}},
    414: {10: {"cordoned": 0, "tainted by gpuheal": 0}, 30: {"cordoned": 1, "tainted by gpuheal": 1}},
    511: {95: {"case-pending": 1}},
    514: {95: {"unknown": 0}},
}
"""At earlier minutes."""

VARIABLES: Mapping[str, Mapping[str, Sequence[str]]] = {
    "gpuheal-fleet": {"cluster": ["a", "b"]},
    "gpuheal-node": {"cluster": ["a", "b"], "node": ["a-1", "a-2", "a-3", "a-4", "a-5"]},
    "gpuheal-gpu": {
        "cluster": ["a", "b"],
        "node": ["a-1", "a-2", "a-3", "a-4", "a-5"],
        "gpu": [uuid("a-3", 0), uuid("a-3", 1)],
    },
    "gpuheal-remediation": {"cluster": ["a", "b"]},
    "gpuheal-pipeline": {"cluster": ["a", "b"]},
}
"""The choices of each variable, with cluster a and the usual node chosen."""

MARKS: Mapping[str, Mapping[int, str]] = {
    "gpuheal-fleet": {116: "GPUHealIncident", 117: "GPUHealNotificationsDropped"},
    "gpuheal-node": {20: "case open: a-2-first a-2", 81: "case open: a-2-second a-2"},
    "gpuheal-gpu": {},
    "gpuheal-remediation": {20: "case open: a-2-first a-2", 62: "case open: a-3-first a-3"},
    "gpuheal-pipeline": {116: "GPUHealIncident"},
}
"""Some of the marks of each board, by minute."""

OTHER: Mapping[int, Lines | Rows] = {
    106: {"": 1},
    121: [],
    401: {"held": 1},
    411: [("a-2", "nvlink-fault", "held", "reboot", "cure", "held", "b-case", 5400)],
    503: {"": 1},
    512: [("a-2", "case-held")],
}
"""What cluster b shows, where a node has the name of one in a."""
