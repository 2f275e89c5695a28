"""Cases for evidence that can show in several ways, and for what looks like it and is not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from gpuheal_rules.cases.shows import DEVICES, SXID, bad_value, of_signal
from gpuheal_rules.cases.world import (
    NODE,
    STEP_SECONDS,
    UUIDS,
    Case,
    Query,
    Series,
    World,
    always,
    between,
    merged,
    since,
    until,
)
from gpuheal_rules.cases.xid import EVENT
from gpuheal_rules.catalogue.model import Catalogue, Evidence, Fault

Shows = Callable[[World], list[Series]]
GPU = {"gpu_uuid": UUIDS[1]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A way to show, or only seem to show, evidence; `elsewhere` tells a node without any accelerator.

    `evident` is how many GPUs it counts for, or whether at all.
    """

    fact: str
    shows: Shows
    evident: int
    elsewhere: bool = False
    at: int = EVENT
    """Step at which one looks."""


def cases(catalogue: Catalogue, fault: Fault, evidence: Evidence) -> list[Case]:
    """Return the cases of one piece of evidence that is no growth."""
    found = VARIANTS.get(evidence.special, ())
    if evidence.special == "foreign_condition":
        found = _conditions(catalogue)
    if evidence.special == "recovery_dcgm":
        names = catalogue.signals["dcgm_recovery_action"].metrics[1:]
        found = [Variant(fact=f"the name {name}", shows=_of_dcgm(name, 2), evident=True) for name in names]
    if evidence.signal:
        found = _other_names(catalogue, evidence)
    return [_case(fault, evidence, variant) for variant in found]


def _case(fault: Fault, evidence: Evidence, variant: Variant) -> Case:
    world = World(exporter=None, dcgm=None) if variant.elsewhere else World()
    changed = variant.shows(world)
    if variant.elsewhere:
        changed += _devices(0, 0)(world)
    own = f'fault="{fault.slug}", class="{evidence.witness}", signal="{evidence.name}", node="{NODE}"'
    counts = "counts" if variant.evident else "does not count"
    return Case(
        name=f"{fault.slug} ({evidence.witness} {evidence.name}): {variant.fact} {counts}",
        series=merged(world.series(), changed),
        queries=[
            Query(
                step=variant.at,
                expr=f"count(gpuheal:fault_evidence:last_seen_seconds{{{own}}})",
                samples=[("{}", float(variant.evident))] if variant.evident else [],
            )
        ],
        steps=variant.at,
    )


def _other_names(catalogue: Catalogue, evidence: Evidence) -> list[Variant]:
    signal, bad = catalogue.signals[evidence.signal], bad_value(catalogue, evidence)

    def shown(metric: str) -> Shows:
        return lambda world: of_signal(world, signal, always(bad), metric=metric)

    return [Variant(fact=f"the name {metric}", shows=shown(metric), evident=True) for metric in signal.metrics[1:]]


def _conditions(catalogue: Catalogue) -> list[Variant]:
    def shown(kind: str, status: str) -> Shows:
        return lambda world: world.of_ksm("kube_node_status_condition", always(1), condition=kind, status=status)

    found = []
    for condition in catalogue.conditions:
        kind = condition.type.split("|")[0].replace(".+", "NPU_CARD_LOSE")
        found.append(Variant(fact=f"condition {kind}", shows=shown(kind, condition.status), evident=True))
    first = catalogue.conditions[0]
    where = "a bad condition of a node without accelerators"
    return [*found, Variant(fact=where, shows=shown(first.type, first.status), evident=False, elsewhere=True)]


def _sxid(latched: float, action: str) -> Shows:
    return lambda world: [
        *world.of_exporter("gpuheal_sxid_latched", SXID, always(latched)),
        *world.of_exporter("gpuheal_sxid_last_timestamp_seconds", SXID, always(100)),
        *world.of_exporter("gpuheal_sxid_resolution_info", {**SXID, "action": action, "scope": "device"}, always(1)),
    ]


def _software(component: str) -> Sequence[Variant]:
    labels = {"component": component}
    return [
        Variant(
            fact="a component that does not run and need not",
            shows=lambda world: [
                *world.of_exporter("gpuheal_software_up", labels, always(0)),
                *world.of_exporter("gpuheal_software_expected", labels, always(0)),
            ],
            evident=False,
        )
    ]


def _devices(capacity: float, allocatable: float) -> Shows:
    return lambda world: [
        *world.of_ksm("kube_node_status_capacity", always(capacity), **DEVICES),
        *world.of_ksm("kube_node_status_allocatable", always(allocatable), **DEVICES),
    ]


def _mask(value: float) -> Shows:
    return lambda world: world.of_dcgm("DCGM_FI_DEV_CLOCKS_EVENT_REASONS", 1, always(value))


def _clocks(**reasons: float) -> Shows:
    return lambda world: [
        series
        for reason, value in reasons.items()
        for series in world.of_exporter("gpuheal_gpu_clocks_event", {**GPU, "reason": reason}, always(value))
    ]


def _link(what: str, value: float) -> Shows:
    return lambda world: world.of_exporter(f"gpuheal_gpu_pcie_link_{what}", GPU, always(value))


def _all_links(what: str, before: float, now: float) -> Shows:
    return lambda world: [
        series
        for uuid in UUIDS
        for series in world.of_exporter(
            f"gpuheal_gpu_pcie_link_{what}", {"gpu_uuid": uuid}, since(EVENT - 5, now, before)
        )
    ]


def _not_ready(world: World) -> list[Series]:
    return world.of_ksm("kube_node_status_condition", always(0), condition="Ready", status="true")


def _no_module(world: World) -> list[Series]:
    return [
        *world.of_exporter("gpuheal_driver_module_loaded", {"module": "nvidia"}, always(0)),
        *world.of_exporter("gpuheal_driver_pci_gpus", {}, always(0)),
    ]


def _unloaded(at: int, *, rebooted: bool = False) -> Shows:
    """Return a node whose driver is unloaded at a step, because of a reboot or without one."""
    boot = at * STEP_SECONDS if rebooted else -86400.0

    return lambda world: [
        *world.of_exporter("gpuheal_driver_module_loaded", {"module": "nvidia"}, since(at, 0, 1.0)),
        *world.of_exporter("gpuheal_node_boot_timestamp_seconds", {}, since(at, boot, -86400.0)),
    ]


def _passed_on(world: World) -> list[Series]:
    """Return a host that passes its GPUs on to guests: it has no driver, and nobody ever showed a GPU of it."""
    hidden = [s for s in world.series() if s.metric.startswith(("gpuheal_gpu_", "DCGM_"))]
    return [
        *(replace(s, at=lambda _step: None) for s in hidden),
        *world.of_exporter("gpuheal_driver_module_loaded", {"module": "nvidia"}, always(0)),
        *_devices(0, 0)(world),
    ]


def _came_late(world: World) -> list[Series]:
    """Return a node whose RDMA device came up late, and then disappeared."""
    labels = {"device": "mlx5_0", "port": "1"}
    return world.of_exporter("gpuheal_rdma_port_state", labels, between(2, EVENT + 2, 4))


def _ports(gone: Sequence[str], come: str = "", exclusive: float = 0) -> Shows:
    """Return a node on which RDMA devices disappear, and another one comes up in their place."""
    healthy = {"mlx5_0": 4.0, "mlx5_9": 1.0}

    def shows(world: World) -> list[Series]:
        found = world.of_exporter("gpuheal_rdma_exclusive", {}, always(exclusive))
        for device in gone:
            labels = {"device": device, "port": "1"}
            found += world.of_exporter("gpuheal_rdma_port_state", labels, until(EVENT - 2, healthy[device]))
        labels = {"device": come, "port": "1"}
        return found + (world.of_exporter("gpuheal_rdma_port_state", labels, since(EVENT - 2, 4)) if come else [])

    return shows


def _of_dcgm(name: str, value: float) -> Shows:
    return lambda world: world.of_dcgm(name, 1, always(value))


def _manager(status: float) -> Shows:
    return lambda world: world.of_dcgm("DCGM_FI_DEV_FABRIC_MANAGER_STATUS", 1, always(status))


VARIANTS: Mapping[str, Sequence[Variant]] = {
    "sxid_fatal": [
        Variant(fact="a switch error that asks for nothing", shows=_sxid(1, "none"), evident=False),
        Variant(fact="a switch error that is no longer latched", shows=_sxid(0, "reboot"), evident=False),
    ],
    "sxid_degraded": [
        Variant(fact="a switch error that asks for nothing", shows=_sxid(1, "none"), evident=False),
        Variant(fact="a switch error that is no longer latched", shows=_sxid(0, "alert"), evident=False),
    ],
    "fabric_manager_software": _software("fabric_manager"),
    "plugin_software": _software("device_plugin"),
    "dcgm_fabric_manager": [
        Variant(fact="status 1, does not run", shows=_manager(1), evident=True),
        Variant(fact="status 4, failed to train", shows=_manager(4), evident=True),
        Variant(fact="status 2, is starting", shows=_manager(2), evident=False),
    ],
    "driver_module_missing": [
        Variant(fact="a missing module without a GPU on the bus", shows=_no_module, evident=False),
        Variant(fact="a host that passes its GPUs on", shows=_passed_on, evident=False),
        Variant(fact="a module that was just unloaded", shows=_unloaded(EVENT), evident=False, at=EVENT + 78),
        Variant(fact="a module unloaded long ago", shows=_unloaded(EVENT), evident=True, at=EVENT + 82),
        Variant(
            fact="a module not loaded after a reboot", shows=_unloaded(60, rebooted=True), evident=True, at=60 + 42
        ),
    ],
    "rdma_port_down": [
        Variant(fact="a device that has disappeared", shows=_ports(["mlx5_0"]), evident=True),
        Variant(fact="a device that came late and has disappeared", shows=_came_late, evident=True, at=EVENT + 4),
        Variant(fact="all devices that have disappeared", shows=_ports(["mlx5_0", "mlx5_9"]), evident=True),
        Variant(fact="an unused device that has disappeared", shows=_ports(["mlx5_9"]), evident=False),
        Variant(fact="a device with another name", shows=_ports(["mlx5_0"], "mlx5_2"), evident=False),
        Variant(fact="a device that a pod took along", shows=_ports(["mlx5_0"], exclusive=1), evident=False),
    ],
    "no_allocatable": [Variant(fact="a capacity of none", shows=_devices(0, 0), evident=False)],
    "dcgm_clocks_thermal": [
        Variant(fact="software slowdown by heat alone", shows=_mask(0x20), evident=True),
        Variant(fact="hardware slowdown by heat alone", shows=_mask(0x40), evident=True),
        Variant(fact="the power brake", shows=_mask(0x80), evident=False),
    ],
    "slowdown_unexplained": [
        Variant(
            fact="slowdown with heat as its reason", shows=_clocks(hw_slowdown=1, hw_thermal_slowdown=1), evident=False
        ),
        Variant(
            fact="slowdown without heat or power brake",
            shows=_clocks(hw_slowdown=1, hw_thermal_slowdown=0, hw_power_brake=0),
            evident=True,
        ),
    ],
    "dcgm_slowdown_unexplained": [
        Variant(fact="slowdown with software's heat", shows=_mask(0x8 + 0x20), evident=False),
        Variant(fact="slowdown with hardware's heat", shows=_mask(0x8 + 0x40), evident=False),
        Variant(fact="slowdown with the power brake", shows=_mask(0x8 + 0x80), evident=False),
    ],
    "pcie_below_maximum": [
        Variant(fact="a lower generation under load", shows=_link("generation_under_load", 4), evident=True),
        Variant(fact="half the width", shows=_link("width", 8), evident=True),
        Variant(fact="half the width of all GPUs at once", shows=_all_links("width", 16, 8), evident=2),
        Variant(
            fact="a lower generation of all GPUs at once",
            shows=_all_links("generation_under_load", 5, 4),
            evident=2,
        ),
        Variant(fact="a lower generation at rest", shows=_link("generation", 1), evident=False),
    ],
    "not_ready": [Variant(fact="a node without accelerators", shows=_not_ready, evident=False, elsewhere=True)],
}
