"""Which GPU software runs, from a process tree and real sockets below a root."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.stubs.samples import only, samples

from gpuheal_exporters.collectors.software import SoftwareCollector, answers
from gpuheal_exporters.nvml.snapshot import Gpu, NvmlSnapshot, NvmlState, Reading

TCP = "  sl  local_address rem_address   st tx_queue rx_queue\n   0: 0100007F:15B3 00000000:0000 0A 00000000:00000000\n"


def write(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def run(root: Path, *names: str) -> None:
    """A host whose processes have these names (as the kernel cuts them)."""
    for pid, name in enumerate(("systemd", "kthreadd", *names), start=1):
        write(root, f"proc/{pid}/comm", f"{name[:15]}\n")
    write(root, "proc/uptime", "1 1\n")


@contextmanager
def listener(root: Path, path: str) -> Iterator[Path]:
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = os.open(target.parent, os.O_PATH | os.O_DIRECTORY)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"/proc/self/fd/{folder}/{target.name}")  # a socket address holds 107 bytes
        os.close(folder)
        server.listen()
        yield target


def nothing() -> NvmlSnapshot:
    return NvmlSnapshot()


def up(collector: SoftwareCollector) -> dict[str, float]:
    return {name: value for (name,), value in only(samples(collector), "gpuheal_software_up").items()}


def expected(collector: SoftwareCollector) -> set[str]:
    return {name for (name,), value in only(samples(collector), "gpuheal_software_expected").items() if value}


def test_processes_are_found_by_their_cut_names(tmp_path: Path) -> None:
    """Daemons whose names are longer than the kernel keeps are recognised, the others are down."""
    run(tmp_path, "nv-fabricmanager", "nvidia-persistenced", "nv-hostengine", "nvidia-imex", "python3")
    collector = SoftwareCollector(tmp_path, nothing)
    assert up(collector) == {"dcgm_hostengine": 1, "fabric_manager": 1, "imex": 1, "nvlsm": 0, "persistenced": 1}


def test_hidden_processes_are_unknown_not_down(tmp_path: Path) -> None:
    """Without the host's PID namespace nothing is said of daemons, except of those whose socket answers."""
    write(tmp_path, "proc/2/comm", "sh\n")
    collector = SoftwareCollector(tmp_path, nothing)
    assert up(collector) == {}
    with listener(tmp_path, "run/nvidia-persistenced/socket"):
        assert up(collector) == {"persistenced": 1}


@pytest.mark.parametrize("table", ["proc/net/tcp", "proc/1/net/tcp6"])
def test_hostengine_by_its_port(tmp_path: Path, table: str) -> None:
    """A host engine that listens on port 5555 is up, wherever it runs; the same port not listening is nothing."""
    write(tmp_path, table, TCP.replace(" 0A ", " 01 "))
    assert up(SoftwareCollector(tmp_path, nothing)) == {}
    write(tmp_path, table, TCP)
    assert up(SoftwareCollector(tmp_path, nothing)) == {"dcgm_hostengine": 1}


def test_device_plugin_that_left_its_socket_behind(tmp_path: Path) -> None:
    """A socket file nobody listens on means the plugin is expected and down; the kubelet's own socket is not a
    plugin.
    """
    collector = SoftwareCollector(tmp_path, nothing)
    with listener(tmp_path, "var/lib/kubelet/device-plugins/kubelet.sock"):
        assert up(collector) == {"device_plugin": 0}
        assert expected(collector) == set()
        with listener(tmp_path, "var/lib/kubelet/device-plugins/nvidia-gpu.sock"):
            assert up(collector) == {"device_plugin": 1}
        assert up(collector) == {"device_plugin": 0}
        assert expected(collector) == {"device_plugin"}
        (tmp_path / "var/lib/kubelet/device-plugins/nvidia-gpu.sock").unlink()
        assert expected(collector) == {"device_plugin"}, "it was seen up before"


def test_component_seen_up_is_expected_from_then_on(tmp_path: Path) -> None:
    """A daemon that ran and runs no more is expected and down."""
    run(tmp_path, "nvidia-persistenced")
    collector = SoftwareCollector(tmp_path, nothing)
    assert expected(collector) == {"persistenced"}
    write(tmp_path, "proc/3/comm", "bash\n")
    assert up(collector)["persistenced"] == 0
    assert expected(collector) == {"persistenced"}


def fabric(cluster: str) -> NvmlSnapshot:
    values: dict[str, object] = {"state": 3, "cluster": cluster}
    gpu = Gpu(uuid="GPU-0", pci="0000:1b:00", readings={"fabric": Reading(observed_at=1.0, values=values)})
    return NvmlSnapshot(state=NvmlState.OK, gpus=(gpu,))


def test_fabric_manager_is_expected_where_the_switches_are(tmp_path: Path) -> None:
    """NVSwitches on the bus, their device file, or a fabric without a rack's domain ask for a fabric manager on this
    node.
    """
    run(tmp_path)
    assert "fabric_manager" not in expected(SoftwareCollector(tmp_path, nothing))
    assert "fabric_manager" in expected(SoftwareCollector(tmp_path, lambda: fabric("")))
    assert "fabric_manager" not in expected(SoftwareCollector(tmp_path, lambda: fabric("ab" * 16)))
    write(tmp_path, "dev/nvidia-nvswitchctl", "")
    assert "fabric_manager" in expected(SoftwareCollector(tmp_path, nothing))
    (tmp_path / "dev/nvidia-nvswitchctl").unlink()
    write(tmp_path, "sys/bus/pci/devices/0000:07:00.0/vendor", "0x10de\n")
    write(tmp_path, "sys/bus/pci/devices/0000:07:00.0/class", "0x068000\n")
    assert "fabric_manager" in expected(SoftwareCollector(tmp_path, nothing))


def test_full_backlog_counts_as_listening(tmp_path: Path) -> None:
    """A server too busy to accept is still there, and the question never waits for it."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "busy.sock"))
        server.listen(0)
        waiting = []
        for _ in range(4):
            client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            client.connect_ex(str(tmp_path / "busy.sock"))
            waiting.append(client)
        assert answers(tmp_path / "busy.sock")
        for client in waiting:
            client.close()
    assert not answers(tmp_path / "busy.sock")
    assert not answers(tmp_path / "none" / "x.sock")
