"""Growth over a day, with the same rules at slower intervals, so that a day is a few hundred evaluations."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from gpuheal_rules.catalogue.model import Catalogue
from gpuheal_rules.mutation.suites import Suite, sliced
from gpuheal_rules.options import Options
from gpuheal_rules.promql.promtool import run_tests
from gpuheal_rules.render import build_groups, rule_file, to_yaml

MINUTES = 4
DAY = 24 * 60 // MINUTES
GPU, BUS = "GPU-11111111-0000-0000-0000-000000000001", "00000000:3B:00.0"


DAYS = {
    "a counter that is seen for the first time, with the errors of its life": (f"_x{DAY + 5} 1500x20", False),
    "a counter that grew beyond the threshold": (f"500x{DAY + 4} 1501x20", True),
    "a counter that grew to the threshold only": (f"500x{DAY + 4} 1500x20", False),
    "old errors that nobody had looked at": (f"90000x{DAY + 25}", False),
    "a counter that restarted and grew": (f"90000x{DAY + 4} 1001x20", True),
}
"""What the counter of corrected errors does within a day, and whether that is a trend."""


def test_corrected_errors_of_a_day_make_a_trend(catalogue: Catalogue, promtool: str, tmp_path: Path) -> None:
    """GPUECCTrend fires for what grew within a day by more than the threshold, and for nothing else."""
    step = timedelta(minutes=MINUTES)
    options = Options(interval=timedelta(minutes=1), slow_interval=step, scrape_interval=timedelta(minutes=1))
    part = Suite(name="day", faults=frozenset({"gpu-ecc-trend", "watchdog"}), cases=())
    groups = [replace(group, interval=step) for group in sliced(build_groups(catalogue, options), part)]
    (tmp_path / "rules.yaml").write_text(rule_file(groups))
    end = DAY + 15
    series, asked = [], []
    for number, (fact, (errors, fires)) in enumerate(DAYS.items()):
        target = f'job="dcgm-exporter", instance="10.0.0.{number}:9400", node="{fact}"'
        own = f'gpu="1", UUID="{GPU}-{number}", pci_bus_id="{BUS}", {target}'
        series += [
            {"series": f"up{{{target}}}", "values": f"1x{end}"},
            {"series": f"DCGM_FI_DEV_GPU_TEMP{{{own}}}", "values": f"45x{end}"},
            {"series": f"DCGM_FI_DEV_ECC_SBE_VOL_TOTAL{{{own}}}", "values": errors},
        ]
        firing = f'ALERTS{{alertname="GPUECCTrend", alertstate="firing", node="{fact}"}}'
        asked.append(
            {
                "expr": f"count({firing})",
                "eval_time": f"{end * MINUTES}m",
                "exp_samples": [{"labels": "{}", "value": 1}] if fires else [],
            }
        )
    test = {"name": "a day", "interval": f"{MINUTES}m", "input_series": series, "promql_expr_test": asked}
    document = {"rule_files": ["rules.yaml"], "evaluation_interval": f"{MINUTES}m", "tests": [test]}
    (tmp_path / "day.test.yaml").write_text(to_yaml(document))
    assert run_tests(promtool, [tmp_path / "day.test.yaml"]) == ""


def test_the_node_comes_from_the_host_label_where_targets_have_none(
    catalogue: Catalogue, promtool: str, tmp_path: Path
) -> None:
    """With the label profile Hostname a GPU of a target without `node` is known, and its fault fires with its node."""
    from gpuheal_rules.options import PROFILES

    (tmp_path / "rules.yaml").write_text(rule_file(build_groups(catalogue, Options(labels=PROFILES["Hostname"]))))
    own = f'gpu="1", UUID="{GPU}", pci_bus_id="{BUS}", Hostname="gpu-node-1", job="dcgm-exporter", instance="a:9400"'
    document = {
        "rule_files": ["rules.yaml"],
        "evaluation_interval": "15s",
        "tests": [
            {
                "interval": "15s",
                "input_series": [
                    {"series": f"DCGM_FI_DEV_GPU_TEMP{{{own}}}", "values": "45x20"},
                    {"series": f'DCGM_FI_DEV_XID_ERRORS{{{own}, exported_pod="a"}}', "values": "0x9 stale"},
                    {"series": f'DCGM_FI_DEV_XID_ERRORS{{{own}, err_code="79"}}', "values": "_x10 79x10"},
                ],
                "promql_expr_test": [
                    {
                        "expr": 'count by (node, gpu_uuid) (ALERTS{alertname="GPUFellOffBus", alertstate="firing"})',
                        "eval_time": "4m",
                        "exp_samples": [{"labels": f'{{node="gpu-node-1", gpu_uuid="{GPU}"}}', "value": 1}],
                    }
                ],
            }
        ],
    }
    (tmp_path / "host.test.yaml").write_text(to_yaml(document))
    assert run_tests(promtool, [tmp_path / "host.test.yaml"]) == ""
