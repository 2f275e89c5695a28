"""The simulated fleet over HTTP: scrapes, injected lines and faults, and what it says of itself."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from pytest_aiohttp import AiohttpClient

from gpuheal_lab.fleet import discovery, sim
from gpuheal_lab.fleet.cluster import Simulation
from gpuheal_lab.fleet.sim import FleetServer
from gpuheal_lab.fleet.spec import fleet
from gpuheal_lab.fleet.telemetry import Telemetry
from gpuheal_lab.servers.process import LabError

ONE = "gpu-node-001"


def server() -> FleetServer:
    made = Simulation(fleet(2, 8))
    return FleetServer(made, Telemetry(made.fleet, made.schedule, made.api.nodes))


async def test_posted_line_is_on_the_exporter(aiohttp_client: AiohttpClient) -> None:
    """A line posted to /kmsg is latched at the next scrape; the same line by a process is not."""
    made = server()
    client = await aiohttp_client(made.application())
    address = made.simulation.specs[ONE].gpus[0].kernel_address
    line = f"NVRM: Xid (PCI:{address}): 79, pid=1, GPU has fallen off the bus."
    await client.post(f"/nodes/{ONE}/kmsg", data=f"12,1,1,-;{line}")
    text = await (await client.get(f"/nodes/{ONE}/exporter/metrics")).text()
    assert "gpuheal_xid_latched{" not in text
    answer = await client.post(f"/nodes/{ONE}/kmsg", data=line)
    assert await answer.json() == {"written": 1}
    text = await (await client.get(f"/nodes/{ONE}/exporter/metrics")).text()
    assert text.count("gpuheal_xid_latched{") == 1


async def test_posted_fault_shows_in_fleet_and_scrapes(aiohttp_client: AiohttpClient) -> None:
    """POST /faults breaks the GPU; /fleet names it and dcgm-exporter's text has its Xid."""
    made = server()
    client = await aiohttp_client(made.application())
    answer = await client.post("/faults", json={"node": ONE, "gpu": 3, "fault": "gpu-fell-off-bus"})
    uuid = made.simulation.specs[ONE].gpus[3].uuid
    assert (answer.status, (await answer.json())["gpu_uuid"]) == (200, uuid)
    nodes = (await (await client.get("/fleet")).json())["nodes"]
    assert [g["uuid"] for n in nodes for g in n["gpus"] if g["faults"]] == [uuid]
    scraped = await client.get(f"/nodes/{ONE}/dcgm/metrics")
    assert scraped.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert 'err_code="79"' in await scraped.text()


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ("no json", "not JSON"),
        ('{"node": "gpu-node-001"}', "expected an object"),
        ('{"node": "nowhere", "gpu": 0, "fault": "gpu-fell-off-bus"}', "node:"),
        ('{"node": "gpu-node-001", "gpu": 9, "fault": "gpu-fell-off-bus"}', "gpu:"),
        ('{"node": "gpu-node-001", "gpu": 0, "fault": "gremlins"}', "fault:"),
        ('{"node": "gpu-node-001", "gpu": 0, "fault": "gpu-fell-off-bus", "cured_by": "reboot"}', "cured_by:"),
        ('{"node": "gpu-node-001", "gpu": 0, "fault": "gpu-fell-off-bus", "relapse_after": "soon"}', "relapse_after:"),
        ('{"node": "gpu-node-001", "gpu": 0, "fault": "gpu-fell-off-bus", "more": 1}', "expected an object"),
    ],
)
async def test_wrong_fault_is_refused_with_the_key(aiohttp_client: AiohttpClient, body: str, named: str) -> None:
    """A body that cannot be used is 400 with the key's name, and nothing breaks."""
    made = server()
    client = await aiohttp_client(made.application())
    answer = await client.post("/faults", data=body)
    assert answer.status == 400
    assert named in (await answer.json())["error"]
    assert made.simulation.fleet[ONE].lines == []


async def test_machine_that_is_down_answers_nothing(aiohttp_client: AiohttpClient) -> None:
    """Both exporters of a machine without power are 503, a kernel line cannot be written, unknown nodes are 404."""
    made = server()
    client = await aiohttp_client(made.application())
    made.simulation.fleet[ONE].cut_power()
    for path in ("dcgm", "exporter"):
        assert (await client.get(f"/nodes/{ONE}/{path}/metrics")).status == 503
    assert (await client.post(f"/nodes/{ONE}/kmsg", data="x")).status == 409
    assert (await client.get("/nodes/nowhere/dcgm/metrics")).status == 404
    assert (await client.get("/kube-state-metrics/metrics")).status == 200


async def test_taken_port_is_named() -> None:
    """A second server on the same port is a LabError that names the address."""
    first, second = server(), server()
    address = await first.start()
    try:
        with pytest.raises(LabError, match=address):
            await second.start(int(address.rpartition(":")[2]))
    finally:
        await first.stop()
        await second.stop()


def test_service_discovery_names_node_rack_zone_and_pool(tmp_path: Path) -> None:
    """Every node is a target of both exporters' jobs with its topology, and the files are what the jobs read."""
    specs = fleet(5, 2, fabric_domains=True)
    configs = discovery.write(tmp_path, specs, "127.0.0.1:9480")
    assert [c["job_name"] for c in configs] == ["dcgm-exporter", "gpuheal-exporter", "kube-state-metrics"]
    for config in configs[:2]:
        groups = json.loads(Path(config["file_sd_configs"][0]["files"][0]).read_text())
        assert [g["labels"]["node"] for g in groups] == [s.name for s in specs]
        last = groups[-1]["labels"]
        expected = {"rack": "rack-02", "zone": "zone-a", "pool": "h100", "fabric_domain": "nvl-02"}
        assert expected.items() <= last.items()
        assert len({g["labels"]["instance"] for g in groups}) == 5
    assert not list(tmp_path.glob("*.part"))


def test_command_serves_until_a_signal_and_writes_service_discovery(tmp_path: Path) -> None:
    """`gpuheal sim --port 0 --sd-dir` says where it listens, answers there, and ends with status 0 on SIGTERM."""
    code = "import sys; from gpuheal_responder.cli import main; sys.exit(main())"
    args = ["sim", "--nodes", "3", "--gpus", "2", "--port", "0", "--sd-dir", str(tmp_path / "sd")]
    process = subprocess.Popen([sys.executable, "-c", code, *args], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        first, second = process.stdout.readline(), process.stdout.readline()
        url = first.split()[-1]
        with urllib.request.urlopen(url, timeout=10) as answer:
            assert [n["name"] for n in json.load(answer)["nodes"]] == [f"gpu-node-00{i}" for i in (1, 2, 3)]
        assert str(tmp_path / "sd") in second
        groups = json.loads((tmp_path / "sd" / "dcgm-exporter.json").read_text())
        assert url == f"http://{groups[0]['targets'][0]}/fleet"
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.communicate(timeout=10)


@pytest.mark.parametrize("args", [["--nodes", "0"], ["--gpus", "99"]])
def test_command_refuses_a_fleet_that_cannot_be(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Status 2 and what was expected."""
    assert sim.main([*args, "--port", "0"]) == 2
    assert "expected 1 to 100000 nodes" in capsys.readouterr().err
