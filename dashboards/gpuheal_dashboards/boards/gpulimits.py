"""GPU, second half: the links of one GPU, its heat and its power, each beside its limits."""

from __future__ import annotations

from collections.abc import Sequence

from gpuheal_dashboards.boards.parts import THIS_GPU, graph, of_dcgm, stat, states, table
from gpuheal_dashboards.model import Column, Panel, Query, Shade
from gpuheal_dashboards.style import BAD_FROM_ONE, BLUE, GREY, ORANGE, RED

LIMIT = Shade(color=RED)


LINKS: Sequence[Panel] = (
    graph(
        id=331,
        title="NVLinks",
        description="Links that are active, and how many should be.",
        queries=[
            Query(expr=f"max(gpuheal_gpu_nvlinks_active{{{THIS_GPU}}})", legend="active"),
            Query(expr=f"max(gpuheal_gpu_nvlinks_expected{{{THIS_GPU}}})", legend="expected"),
        ],
        colors={"expected": Shade(color=GREY)},
        dashed="expected",
        lowest=0,
        width=8,
    ),
    graph(
        id=332,
        title="NVLink errors per hour",
        description="Growth of the error counters of all links within an hour, by kind, and the threshold.",
        queries=[
            Query(
                expr=f"sum by (kind) (increase(gpuheal_gpu_nvlink_errors_total{{{THIS_GPU}}}[1h]))",
                legend="{{kind}}",
            ),
            Query(expr='max(gpuheal:threshold{name="nvlink_errors_per_hour"})', legend="threshold"),
        ],
        colors={"threshold": LIMIT},
        dashed="threshold",
        lowest=0,
        width=8,
    ),
    stat(
        id=333,
        nothing="none",
        title="Links that are down",
        description="NVLinks that are down and should be up.",
        queries=[Query(expr=f"max by (link) (gpuheal_gpu_nvlink_down{{{THIS_GPU}}} == 1)", legend="link {{link}}")],
        named=True,
        steps=BAD_FROM_ONE,
        width=8,
        height=8,
    ),
    graph(
        id=334,
        title="PCIe width",
        description="Lanes in use, and what GPU and slot support.",
        queries=[
            Query(expr=f"max(gpuheal_gpu_pcie_link_width{{{THIS_GPU}}})", legend="lanes"),
            Query(expr=f"max(gpuheal_gpu_pcie_link_width_max{{{THIS_GPU}}})", legend="supported"),
        ],
        colors={"supported": Shade(color=GREY)},
        dashed="supported",
        lowest=0,
        width=8,
    ),
    graph(
        id=335,
        title="PCIe generation under load",
        description="Generation when the GPU was last at work, and what GPU and slot support; it drops at idle.",
        queries=[
            Query(expr=f"max(gpuheal_gpu_pcie_link_generation_under_load{{{THIS_GPU}}})", legend="under load"),
            Query(expr=f"max(gpuheal_gpu_pcie_link_generation_max{{{THIS_GPU}}})", legend="supported"),
        ],
        colors={"supported": Shade(color=GREY)},
        dashed="supported",
        lowest=0,
        width=8,
    ),
    graph(
        id=336,
        title="PCIe replays per hour",
        description="Growth of the replay counter within an hour, and the threshold.",
        queries=[
            Query(expr=f"max(increase(gpuheal_gpu_pcie_replays_total{{{THIS_GPU}}}[1h]))", legend="replays"),
            Query(expr='max(gpuheal:threshold{name="pcie_replays_per_hour"})', legend="threshold"),
        ],
        colors={"threshold": LIMIT},
        dashed="threshold",
        lowest=0,
        width=8,
    ),
)

OWN = f"gpuheal_gpu_temperature_celsius{{{THIS_GPU}}}"
HOT = of_dcgm("DCGM_FI_DEV_GPU_TEMP", THIS_GPU)
MEMORY = of_dcgm("DCGM_FI_DEV_MEMORY_TEMP", THIS_GPU)
HEAT: Sequence[Panel] = (
    graph(
        id=341,
        title="Temperature",
        description="GPU and memory, and the limits that this GPU reports.",
        queries=[
            Query(expr=f"max({OWN} or on (gpu_uuid) {HOT})", legend="GPU"),
            Query(
                expr=f"max(gpuheal_gpu_memory_temperature_celsius{{{THIS_GPU}}} or on (gpu_uuid) {MEMORY})",
                legend="memory",
            ),
            Query(
                expr=f"max by (limit) (gpuheal_gpu_temperature_limit_celsius{{{THIS_GPU}}})",
                legend="limit: {{limit}}",
            ),
        ],
        dashed="limit: .*",
        unit="celsius",
        width=8,
    ),
    graph(
        id=342,
        title="Margin to the thermal limit",
        description="Degrees to the limit (Ada, Hopper and newer), and where the alert for heat begins.",
        queries=[
            Query(expr=f"min(gpuheal_gpu_temperature_margin_celsius{{{THIS_GPU}}})", legend="margin"),
            Query(expr='max(gpuheal:threshold{name="margin_enter_celsius"})', legend="threshold"),
        ],
        colors={"threshold": LIMIT},
        dashed="threshold",
        unit="celsius",
        width=8,
    ),
    graph(
        id=343,
        title="Power",
        description="Power drawn, and the limit in force.",
        queries=[
            Query(
                expr=(
                    f"max(gpuheal_gpu_power_watts{{{THIS_GPU}}} or on (gpu_uuid) "
                    f"{of_dcgm('DCGM_FI_DEV_POWER_USAGE', THIS_GPU)})"
                ),
                legend="power",
            ),
            Query(expr=f"max(gpuheal_gpu_power_limit_watts{{{THIS_GPU}}})", legend="limit"),
        ],
        colors={"limit": LIMIT, "power": Shade(color=BLUE)},
        dashed="limit",
        unit="watt",
        lowest=0,
        width=8,
    ),
    states(
        id=344,
        nothing="none",
        title="Clocks held back",
        description="Reasons for which the clocks are throttled. Idle and a power cap are normal.",
        queries=[
            Query(
                expr=f"max by (reason) (gpuheal_gpu_clocks_event{{{THIS_GPU}}} == 1)",
                legend="{{reason}}",
            )
        ],
        texts={"1": Shade(text="throttled", color=ORANGE)},
        height=6,
    ),
    table(
        id=345,
        title="Pods",
        description="Containers that hold this GPU or a MIG device of it.",
        queries=[
            Query(expr=f"group by (namespace, pod, container) (gpuheal_gpu_pod_info{{{THIS_GPU}}})"),
        ],
        columns=(
            Column(title="Namespace", label="namespace", width=150),
            Column(title="Pod", label="pod"),
            Column(title="Container", label="container", width=150),
        ),
        height=6,
        nothing="no pod holds the GPU",
    ),
)
