"""What is known survives an outage of Prometheus: killed, away for minutes or an hour, and what a new replica lacks.

A real Prometheus watches faults begin, and is killed. Its samples, moved back in time, are then the past of servers
that start after longer outages: nobody waits for them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest
from tests.integration.webhook import Target

from gpuheal_lab.servers.find import Generation, ensure
from gpuheal_lab.servers.process import run
from gpuheal_lab.servers.stack import Prometheus, prometheus_config, wait_for
from gpuheal_rules.catalogue.load import load_catalogue
from gpuheal_rules.groups.identity import SILENT
from gpuheal_rules.groups.latch import DCGM_XID, LOST, OWNER, PORT_DOWN, PORT_SEEN, XID
from gpuheal_rules.groups.memory import EVALUATED, TAKEN, kept
from gpuheal_rules.groups.trend import BEST_LINK
from gpuheal_rules.options import Options
from gpuheal_rules.promql.rule import EVIDENCE, GPU_SHOWN
from gpuheal_rules.render import build_groups, rule_file

pytestmark = [pytest.mark.servers, pytest.mark.nightly, pytest.mark.timeout(300)]

SECOND = timedelta(seconds=1)
OPTIONS = Options(interval=SECOND, scrape_interval=SECOND, slow_interval=SECOND * 7)
JOBS = {"ours": "gpuheal-exporter", "silent": "gpuheal-exporter", "plain": "dcgm-exporter"}
"""Nodes: one whose exporter always answers, one whose exporter falls silent, one with dcgm-exporter only."""

OUTAGES = {"7 min": 7 * 60, "45 min": 45 * 60}
LONGER = 65 * 60
"""Longer than what a silent source said is believed."""

GIVEN_BACK = 16
"""Evaluations after a start in which the memory gives back; what stands later stands by itself."""

RESTORED = 2
"""Evaluations after a start in which Prometheus writes no ALERTS: it restores their state first (rules/group.go)."""

NODE = """\
gpuheal_exporter_heartbeat_timestamp_seconds NOW
gpuheal_kmsg_up 1
gpuheal_nvml_up 1
gpuheal_node_boot_timestamp_seconds 1000000
"""
Labels = tuple[tuple[str, str], ...]


class Page(Target):
    """Answers with `body`, in which NOW is the time of the answer."""

    @property
    def text(self) -> str:
        """What a scrape is answered."""
        return self.body.replace("NOW", f"{time.time():.3f}")

    @text.setter
    def text(self, body: str) -> None:
        self.body = body


def uuid(node: str, gpu: int) -> str:
    """The UUID of a GPU of the node."""
    return f"GPU-{node}-{gpu}"


def latched(node: str, gpu: int, code: int, at: float) -> str:
    """An Xid that the exporter saw."""
    labels = f'{{gpu_uuid="{uuid(node, gpu)}",pci_bus_id="0000:{gpu:02x}:00",xid="{code}"}}'
    return f"gpuheal_xid_latched{labels} 1\ngpuheal_xid_last_timestamp_seconds{labels} {at:.3f}\n"


def exporter(node: str, *, lost: bool = False, width: int = 16, ports: tuple[int, int] = (4, 4), more: str = "") -> str:
    """What the gpuheal exporter of a node with four GPUs shows; the third one may be lost, the fourth slow."""
    found = NODE + more
    for gpu in range(4):
        labels = f'gpu_uuid="{uuid(node, gpu)}"'
        found += f'gpuheal_gpu_info{{{labels},pci_bus_id="0000:{gpu:02x}:00"}} 1\n'
        found += f"gpuheal_gpu_present{{{labels}}} {0 if lost and gpu == 2 else 1}\n"
        found += f"gpuheal_gpu_pcie_link_width{{{labels}}} {width if gpu == 3 else 16}\n"
    for port, state in enumerate(ports):
        found += f'gpuheal_rdma_port_state{{device="mlx5_{port}",port="1"}} {state}\n'
    return found


def dcgm(node: str, *, gpus: int = 4, xid: int = 0) -> str:
    """What dcgm-exporter of a node shows; the code is that of the second GPU."""
    found = ""
    for gpu in range(gpus):
        labels = f'gpu="{gpu}",UUID="{uuid(node, gpu)}",pci_bus_id="00000000:{gpu:02X}:00.0"'
        found += f"DCGM_FI_DEV_GPU_TEMP{{{labels}}} 45\nDCGM_FI_DEV_SM_CLOCK{{{labels}}} 1980\n"
        found += f"DCGM_FI_DEV_XID_ERRORS{{{labels}}} {xid if gpu == 1 else 0}\n"
    return found


def pods(node: str, *names: str) -> str:
    """Pods that hold the first GPU."""
    return "".join(f'gpuheal_gpu_pod_info{{gpu_uuid="{uuid(node, 0)}",namespace="a",pod="{n}"}} 1\n' for n in names)


class Site:
    """The pages of the site, and servers that scrape them."""

    def __init__(self, folder: Path, generation: Generation, held: ExitStack) -> None:
        self.folder, self.generation, self._held = folder, generation, held
        self.pages = {
            node: held.enter_context(Page(dcgm(node) if node == "plain" else exporter(node))) for node in JOBS
        }
        self._broke = 0.0

    def prometheus(self, name: str, past: str = "") -> Prometheus:
        """A server that runs; `past` is what it has on its disk, as OpenMetrics."""
        folder = self.folder / name
        if past:
            folder.mkdir()
            (folder / "past").write_text(past)
            promtool = str(ensure("promtool", self.generation).path)
            blocks = ["tsdb", "create-blocks-from", "openmetrics", "-q", str(folder / "past"), str(folder / "data")]
            run([promtool, *blocks], deadline_s=60)
        scrape = [
            {
                "job_name": f"{job}-{node}",
                "static_configs": [{"targets": [self.pages[node].address], "labels": {"node": node}}],
            }
            for node, job in JOBS.items()
        ]
        server = Prometheus(
            ensure("prometheus", self.generation),
            folder,
            config=prometheus_config(scrape=scrape),
            rules={"gpuheal.yml": rule_file(build_groups(load_catalogue(), OPTIONS))},
        )
        self._held.callback(server.stop)
        server.start()
        return server

    def break_it(self) -> None:
        """Faults begin on every node."""
        at = self._broke = time.time()
        more = latched("ours", 0, 31, at) + latched("ours", 1, 63, at)
        more += pods("ours", "train-a-x7k2p", "train-b-9fj3z", "serve-c-4xv8m")
        self.pages["ours"].text = exporter("ours", lost=True, width=8, ports=(1, 4), more=more)
        self.pages["silent"].text = exporter("silent", more=latched("silent", 0, 48, at))
        self.pages["plain"].text = dcgm("plain", xid=79)

    def go_on(self, ports: tuple[int, int] = (1, 4)) -> None:
        """Later things hide it: a latch is cleared, a code overwritten, an exporter silent, a GPU not shown."""
        still = latched("ours", 0, 31, self._broke)
        self.pages["ours"].text = exporter("ours", lost=True, width=8, ports=ports, more=still)
        self.pages["silent"].text = ""
        self.pages["plain"].text = dcgm("plain", gpus=3, xid=31)


def labels_of(metric: Mapping[str, str]) -> Labels:
    """A series' labels without its name."""
    return tuple(sorted((name, value) for name, value in metric.items() if name != "__name__"))


def now(server: Prometheus, expr: str) -> dict[Labels, float]:
    """The instant vector by labels."""
    return {labels_of(metric): value for metric, value in server.query(expr)}


def samples(
    server: Prometheus, selector: str, window: str = "15m"
) -> list[tuple[dict[str, str], list[tuple[float, float]]]]:
    """The stored samples of each series, with their times."""
    found = server.get("/api/v1/query", query=f"{selector}[{window}]")["data"]["result"]
    return [(one["metric"], [(float(at), float(value)) for at, value in one["values"]]) for one in found]


def moved(history: list[tuple[dict[str, str], list[tuple[float, float]]]], by: float) -> str:
    """The samples as OpenMetrics text, all times earlier; a value that is a unix time moves too."""
    lines = []
    for metric, values in history:
        pairs = ",".join(f'{name}="{value}"' for name, value in metric.items() if name != "__name__")
        for at, value in values:
            lines.append(f"{metric['__name__']}{{{pairs}}} {value - by * (value > 1e9):.17g} {at - by:.3f}")
    return "\n".join([*lines, "# EOF\n"])


def since(server: Prometheus, selector: str, start: float) -> dict[float, dict[Labels, float]]:
    """What stood at each evaluation of the main group after `start`."""
    evaluations: dict[float, dict[Labels, float]] = {
        at: {} for _metric, values in samples(server, EVALUATED) for at, _value in values if at > start
    }
    for metric, values in samples(server, selector):
        for at, value in values:
            if at in evaluations:
                evaluations[at][labels_of(metric)] = value
    return evaluations


HEALTHY = (kept(GPU_SHOWN), BEST_LINK, PORT_SEEN)
"""What is seen before anything breaks, and only then."""

BROKEN = (f'{DCGM_XID}{{xid="79"}}', f'{XID}{{xid="48"}}', f'{XID}{{xid="63"}}', OWNER, PORT_DOWN)
HIDDEN = {
    f'{LOST}{{class="nvml", node="ours"}}': "a GPU that NVML lost",
    f'{LOST}{{class="dcgm", node="plain"}}': "a GPU that dcgm-exporter does not show any more",
    f'{DCGM_XID}{{xid="79"}} and on (node) {DCGM_XID}{{xid="31"}}': "an overwritten code",
    f'{EVIDENCE}{{node="silent"}} and on () {SILENT}{{node="silent"}}': "the Xid of an exporter that is silent",
    f'{EVIDENCE}{{node="ours", signal="link-below-maximum"}}': "a slow link",
    f'{EVIDENCE}{{node="ours", signal="owners"}}': "a suspect GPU",
    f'{EVIDENCE}{{node="ours", signal="port-state"}}': "a port that is down",
}
FIRING = 'ALERTS{alertstate="firing", alertname="GPUFellOffBus"}'
BEGAN = f'{{__name__=~"{LOST}|{DCGM_XID}"}}'
PERIOD = OPTIONS.slow_interval.total_seconds()


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What a server knows: evidence, alerts of lost GPUs, and when losses and latches began."""

    evidence: frozenset[Labels]
    firing: frozenset[Labels]
    began: Mapping[Labels, float]

    def without(self, node: str) -> Known:
        """What is known of the other nodes."""
        evidence, firing = (
            {one for one in found if dict(one)["node"] != node} for found in (self.evidence, self.firing)
        )
        began = {one: at for one, at in self.began.items() if dict(one)["node"] != node}
        return Known(evidence=frozenset(evidence), firing=frozenset(firing), began=began)

    def less(self, *faults: tuple[str, str]) -> Known:
        """The same without the evidence of these faults, given by node and name."""
        left = {one for one in self.evidence if (dict(one)["node"], dict(one)["fault"]) not in faults}
        return replace(self, evidence=frozenset(left))


def known(server: Prometheus) -> Known:
    """What it knows now."""
    evidence, firing = (frozenset(now(server, expr)) for expr in (EVIDENCE, FIRING))
    return Known(evidence=evidence, firing=firing, began=now(server, BEGAN))


def known_since(server: Prometheus, start: float) -> list[Known]:
    """What it knew at each evaluation since its start, until the memory had long ceased to give anything back."""
    wait_for(lambda: len(since(server, EVALUATED, start)) > GIVEN_BACK + 3, "evaluations", 90)
    found = [since(server, selector, start) for selector in (EVIDENCE, FIRING, BEGAN)]
    return [
        Known(evidence=frozenset(found[0][at]), firing=frozenset(found[1][at]), began=found[2][at])
        for at in sorted(found[0])[: GIVEN_BACK + 3]
    ]


def changes(before: Known, evaluations: Sequence[Known], moved_by: float = 0.0) -> list[str]:
    """How what was known at each evaluation differs from what was known before."""
    told = []
    for number, after in enumerate(evaluations, GIVEN_BACK + 3 - len(evaluations)):
        for what in ("evidence", "firing") if number >= RESTORED else ("evidence",):
            gone, new = getattr(before, what) - getattr(after, what), getattr(after, what) - getattr(before, what)
            told += [f"evaluation {number}: {what} lost {dict(one)}" for one in gone]
            told += [f"evaluation {number}: {what} appeared {dict(one)}" for one in new]
        for labels, at in before.began.items():
            now_at = after.began.get(labels, 0.0) + moved_by
            told += (
                [f"evaluation {number}: {dict(labels)} began {now_at - at:+.3f} s"] if abs(now_at - at) > 0.01 else []
            )
    return told


@pytest.fixture(params=list(Generation), ids=str)
def generation(request: pytest.FixtureRequest) -> Generation:
    """Each supported generation in turn."""
    chosen: Generation = request.param
    return chosen


def test_what_is_known_survives_an_outage_of_prometheus(generation: Generation, tmp_path: Path) -> None:
    """From the first evaluation after an outage on the same faults stand as before; without its data some are lost."""
    with ExitStack() as held:
        here = Site(tmp_path, generation, held)
        server = here.prometheus("first")
        for expr in HEALTHY:
            wait_for(lambda expr=expr: now(server, expr), expr)  # type: ignore[misc]
        here.break_it()
        for expr in BROKEN:
            wait_for(lambda expr=expr: now(server, expr), expr)  # type: ignore[misc]
        here.go_on()
        for expr, what in HIDDEN.items():
            wait_for(lambda expr=expr: now(server, expr), what)  # type: ignore[misc]
        wait_for(lambda: not now(server, f'{XID}{{xid="63"}}'), "an Xid that is cleared to be gone")
        settled = time.time()
        wait_for(lambda: now(server, f"{TAKEN} > {settled + PERIOD}"), "snapshots of all that", 120)
        before, past = known(server), samples(server, '{__name__=~".+"}')
        assert len(before.firing) == 3

        server.kill()
        here.go_on(ports=(1, 1))
        start = time.time()
        server.start()
        assert changes(before, known_since(server, start)) == []
        server.stop()
        for name, by in OUTAGES.items():  # one after the other: a scrape must be answered within its second
            start, away = time.time(), here.prometheus(name, moved(past, by))
            assert changes(before, known_since(away, start), by) == [], name
            wait_for(lambda away=away: len(now(away, PORT_DOWN)) == 2, "the other port")  # type: ignore[misc]
            away.stop()
        start = time.time()
        longer, without = here.prometheus("65 min", moved(past, LONGER)), here.prometheus("without its data")
        # After more than an hour a silent source is believed no longer, and application errors are over.
        believed = before.without("silent").less(("plain", "app-gpu-error"))
        assert changes(believed, known_since(longer, start)[-1:], LONGER) == []
        # Without its data it knows what the gpuheal exporter latches, and what can be seen now. What only dcgm-exporter
        # had shown, what an exporter that is silent had said, and who held a GPU is lost.
        lost = (("plain", "gpu-fell-off-bus"), ("ours", "gpu-suspect-repeat"), ("ours", "nic-down"))
        assert known_since(without, start)[-1].evidence == before.without("silent").less(*lost).evidence
