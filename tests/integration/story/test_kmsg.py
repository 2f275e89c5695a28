"""The whole story from a line in this machine's real kernel log, read by the real exporter."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.integration.story import work
from tests.integration.story.conftest import Playing
from tests.integration.story.node_exporter import KMSG, NodeExporter
from tests.integration.story.play import FAULT, assert_as_before, steps_of
from tests.integration.story.test_whole import STEPS

from gpuheal_lab.fleet.machine import GpuFault
from gpuheal_lab.servers.stack import wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]


def test_a_line_in_the_real_kernel_log_ends_in_a_proven_node(playing: Playing, tmp_path: Path) -> None:
    """/dev/kmsg → exporter → Prometheus → Alertmanager → responder → Job → restored; user space only counts in a drill.

    Other witnesses see the same GPU lost: DCGM of the simulated machine.
    """
    try:
        KMSG.open("wb").close()
    except OSError as problem:
        pytest.fail(f"this test writes to {KMSG}, which needs root (in a container: --privileged): {problem}")
    exporter = NodeExporter(tmp_path)
    try:
        play = playing(exporters={0: exporter.start})
        name = play.node()
        machine = play.fleet.simulation.fleet[name]
        play.background.call(machine.watchers.append, exporter)
        work.put(play)
        before = play.settled(name)
        assert exporter.latched() == []

        gpu = machine.spec.gpus[3]
        silent = GpuFault(slug=FAULT, kernel_lines=(), xid=79, lost=True)
        play.break_gpu(gpu=3, fault=silent)
        line = f"<3>NVRM: Xid (PCI:{gpu.kernel_address}): 79, pid=4711, name=python3, GPU has fallen off the bus.\n"
        with KMSG.open("wb", buffering=0) as log:
            log.write(line.encode())

        latched = f'gpuheal_xid_latched{{node="{name}",gpu_uuid="{gpu.uuid}",xid="79"}} == 1'
        wait_for(lambda: play.path.prometheus.query(latched), "Prometheus to see the latch")
        closed = play.wait_closed(name)
        assert steps_of(closed) == [f"{step} succeeded" for step in STEPS]
        assert_as_before(play, name, before)
        assert len(play.jobs(name)) == 1
        assert exporter.latched() == [], "the new boot knows nothing of it"
    finally:
        if exporter.child is not None:
            exporter.child.kill()
