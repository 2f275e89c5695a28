"""Each metric that rules read has the job of the part that exports it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gpuheal_rules.options import Options
from gpuheal_rules.promql.origin import named, source
from gpuheal_rules.promql.rule import Group

ROOT = Path(__file__).resolve().parents[2]


def exported(part: str) -> set[str]:
    """The metrics of a part, from its page; a histogram is read by its count."""
    names = set(re.findall(r"(?m)^\| `(gpuheal_\w+)`", (ROOT / part / "METRICS.md").read_text()))
    return names | {f"{name}_count" for name in names}


def test_every_metric_is_exported_by_the_part_whose_job_it_names(groups: tuple[Group, ...]) -> None:
    """What rules read from the responder is on its page, and so for the exporter."""
    read = {
        name
        for group in groups
        for rule in group.rules
        for name in re.findall(r"(?<![\w:])gpuheal_\w+(?=\{job=)", rule.expr)
    }
    assert len(read) > 40
    assert {name for name in read if source(name) == "responder"} - exported("responder") == set()
    assert {name for name in read if source(name) == "exporter"} - exported("exporters") == set()


@pytest.mark.parametrize(
    ("expr", "said"),
    [
        ("gpuheal_nvml_up == 1", 'gpuheal_nvml_up{job=~"J"} == 1'),
        ('gpuheal_leader{a="b"}', 'gpuheal_leader{job=~"R", a="b"}'),
        (
            'label_replace(gpuheal:gpu_state, "a", "gpuheal_x", "b", "DCGM_y")',
            'label_replace(gpuheal:gpu_state{job=""}, "a", "gpuheal_x", "b", "DCGM_y")',
        ),
        ('kube_node_labels{a="b"} * gpuheal:x{c="d"}', 'kube_node_labels{job=~"K", a="b"} * gpuheal:x{job="", c="d"}'),
        ("up + time()", None),
    ],
)
def test_selectors_name_their_job_and_texts_stay(expr: str, said: str | None) -> None:
    """Raw series are read from their source, recorded ones from nobody's page; texts stay as they are."""
    jobs = {**Options().jobs, "exporter": "J", "responder": "R", "ksm": "K"}
    assert named(expr, Options(jobs=jobs)) == (said or expr)


def test_every_kind_of_kernel_fault_is_read_by_a_rule(groups: tuple[Group, ...]) -> None:
    """A kind of line that the exporter latches as a fault, and no rule reads, would be found and told to nobody."""
    text = (ROOT / "exporters" / "gpuheal_exporters" / "kernel" / "driverline.py").read_text()
    kinds = set(re.findall(r'kind="(\w+)"', text)) - {"gpu_uuid", "gpu_serial", "gpu_lost_tail", "board_serial"}
    assert len(kinds) > 5
    rules = " ".join(rule.expr for group in groups for rule in group.rules)
    said = {kind for found in re.findall(r'kind=~?"([^"]+)"', rules) for kind in found.split("|")}
    assert kinds - said == set()


def test_every_code_is_judged_told_or_nobody_s_business(catalogue: object, groups: tuple[Group, ...]) -> None:
    """No Xid falls between the rules of the faults, gpu-other-xid and severity info, from either source."""
    from gpuheal_rules.catalogue.model import VERDICT, Catalogue

    assert isinstance(catalogue, Catalogue)
    strong = {code for fault in catalogue.faults.values() for code in fault.xids}
    for witness in ("kernel", "dcgm"):
        judged = {int(code) for code in catalogue.judged(witness).split("|")}
        silent = judged - strong - catalogue.quiet_xids
        assert silent <= {VERDICT}, witness
    assert not catalogue.weak_numbers & {int(code) for code in catalogue.judged("dcgm").split("|")}
