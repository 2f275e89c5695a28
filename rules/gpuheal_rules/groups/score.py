"""The health score of parity row A11, with every term defined, and the node's tier.

score = (1 - 0.4 xid) x (0.7 + 0.3 nvlink) x (1 - 0.2 ecc) x thermal, where
xid      1 while a hardware fault of the GPU holds, else 0
nvlink   active / expected links, 1 where the GPU has none
ecc      1 while a memory fault holds, else corrected errors of a day / threshold, at most 1
thermal  1 below the warning temperature, falling to 0.9 at the slowdown temperature, 0.9 while heat holds the clocks
A lost GPU scores 0; an unknown one has no score, so that nobody takes silence for health. Only terms that differ from 1
are recorded.
"""

from __future__ import annotations

from collections.abc import Iterator

from gpuheal_rules.catalogue.model import Catalogue
from gpuheal_rules.groups.trend import NVLINK_RATIO
from gpuheal_rules.groups.witness import LOST, STATE, UNKNOWN
from gpuheal_rules.options import Options
from gpuheal_rules.promql.rule import COUNT, GPU, NEAR, OPEN, Record, promql, threshold

TERM = "gpuheal:gpu_score:term"
SCORE = "gpuheal:gpu_score"
NODE_SCORE = "gpuheal:node_score"


def rules(catalogue: Catalogue, _options: Options) -> Iterator[Record]:
    """Yield terms, score, node score and tier."""
    hardware = "|".join(f.slug for f in catalogue.faults.values() if f.hardware and f.state == "faulty")
    memory = "|".join(f.slug for f in catalogue.faults.values() if f.family == "memory" and f.hardware)
    corrected = 'gpuheal:gpu_counter:growth24h{signal=~"ecc_corrected|dcgm_ecc_sbe_volatile"}'
    warm, slow = threshold("temperature_enter_celsius"), threshold("temperature_slowdown_celsius")
    hot = f'({NEAR}{{signal="dcgm_temperature"}} > {warm})'
    ecc = [f'group by ({GPU}) ({COUNT}{{fault=~"{memory}"}}) * 0.8'] if memory else []
    if "gpu-ecc-trend" in catalogue.faults:
        share = f"max by ({GPU}) ({corrected}) / {threshold('ecc_corrected_per_day')}"
        ecc.append(f"1 - 0.2 * clamp_max({share}, 1)")
    terms = {
        "xid": f'group by ({GPU}) ({COUNT}{{fault=~"{hardware}"}}) * 0.6',
        # The logarithm of nothing takes every other term with it.
        "lost": f"group by ({GPU}) ({LOST}) * 0",
        "nvlink": f"0.7 + 0.3 * {NVLINK_RATIO}",
        "ecc": "\n  or ".join(ecc),
        "thermal": promql(f"""
            group by ({GPU}) ({OPEN}{{fault="gpu-thermal", signal=~"clocks.*"}}) * 0.9
              or 1 - 0.1 * clamp_max(({hot} - {warm}) / ({slow} - {warm}), 1)
            """),
    }
    if "gpu-thermal" not in catalogue.faults:
        del terms["thermal"]
    if not ecc:
        del terms["ecc"]
    for term, expr in terms.items():
        yield Record(name=TERM, labels={"term": term}, expr=expr)
    yield Record(
        name=SCORE,
        expr=promql(f"""
            (
              exp(sum by ({GPU}) (ln({TERM})))
                or on ({GPU}) {STATE} * 0 + 1
            ) unless on ({GPU}) {UNKNOWN}
            """),
    )
    # A node is as good as its worst GPU, and has no score while one of its GPUs is unknown. It falls at once and
    # rises when it has been better for a quarter of an hour.
    yield Record(
        name=NODE_SCORE,
        expr=f"min by (node) ({SCORE}) unless on (node) {UNKNOWN}",
    )
    steady = "gpuheal:node_score:min15m"
    yield Record(name=steady, expr=f"min_over_time({NODE_SCORE}[15m])")
    high, low = catalogue.number("tier_training"), catalogue.number("tier_inference")
    tiers = {
        "critical-training": f"{steady} > {high}",
        "inference": f"{steady} >= {low} <= {high}",
        "preemptible": f"{steady} < {low}",
    }
    for tier, condition in tiers.items():
        expr = f"group by (node) ({condition}) and on (node) {NODE_SCORE}"
        yield Record(name="gpuheal:node_tier", labels={"tier": tier}, expr=expr)
