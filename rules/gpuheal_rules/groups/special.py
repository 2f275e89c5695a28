"""Evidence that no single comparison can say; each function returns its expression and the source it depends on."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gpuheal_rules.groups.latch import LOST
from gpuheal_rules.model import Catalogue
from gpuheal_rules.options import Options
from gpuheal_rules.rule import CLEARED, GPU, promql


def _lost(witness: str) -> str:
    # A loss that began before its settlement is settled: the GPU was taken out for good, or its case is closed.
    return promql(f"""
        gpuheal:gpu_lost:info{{class="{witness}"}}
          unless on ({GPU}) (
            {LOST}{{class="{witness}"}} <= on ({GPU}) group_left () {CLEARED}{{fault="gpu-fell-off-bus"}}
          )
        """)


def lost_nvml(_catalogue: Catalogue, _options: Options) -> tuple[str, str]:
    """Return GPUs of the inventory that NVML does not show."""
    return _lost("nvml"), "exporter"


def lost_dcgm(_catalogue: Catalogue, _options: Options) -> tuple[str, str]:
    """Return GPUs that dcgm-exporter showed and, while it answers, shows no more."""
    return _lost("dcgm"), "dcgm"


SPECIALS: Mapping[str, Callable[[Catalogue, Options], tuple[str, str]]] = {
    "lost_nvml": lost_nvml,
    "lost_dcgm": lost_dcgm,
}
