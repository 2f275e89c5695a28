"""The kubelet's pod-resources API, against a real gRPC server."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.stubs.kubelet import kubelet, pod, response

from gpuheal_exporters.pods.podresources import HeldDevice, PodResourcesError, decode_list, list_devices

UUID = "GPU-11111111-0000-4000-8000-000000000003"
LISTED = response(
    pod("team-a", "train-0", "pytorch", resource="nvidia.com/gpu", devices=[UUID, f"{UUID}::1"]),
    pod("team-b", "serve-0", "vllm", resource="nvidia.com/mig-1g.10gb", devices=["MIG-1"]),
    pod("team-c", "dra-0", "main", claims=[("gpu.nvidia.com", "gpu-3"), ("dra.example.com", "nic-0")]),
    pod("kube-system", "cni", "agent", resource="example.com/nic", devices=["eth0"]),
)
HELD = tuple(
    HeldDevice(namespace=namespace, pod=name, container=container, resource=resource, device_id=device_id)
    for namespace, name, container, resource, device_id in (
        ("team-a", "train-0", "pytorch", "nvidia.com/gpu", UUID),
        ("team-a", "train-0", "pytorch", "nvidia.com/gpu", f"{UUID}::1"),
        ("team-b", "serve-0", "vllm", "nvidia.com/mig-1g.10gb", "MIG-1"),
        ("team-c", "dra-0", "main", "gpu.nvidia.com", "gpu-3"),
    )
)


def test_devices_of_plugins_and_dra_are_listed(tmp_path: Path) -> None:
    """GPUs, MIG devices and DRA devices come with pod and container; other vendors' devices do not."""
    path = tmp_path / "kubelet.sock"
    with kubelet(path, lambda _: LISTED):
        assert list_devices(path) == HELD
        assert list_devices(path) == HELD, "each call is a connection of its own"


def test_answer_larger_than_the_flow_control_window(tmp_path: Path) -> None:
    """A list of several megabytes, far beyond HTTP/2's first window of 64 KiB, arrives whole."""
    path = tmp_path / "kubelet.sock"
    many = [pod("team", f"pod-{n}", "c" * 200, resource="nvidia.com/gpu", devices=[f"GPU-{n}"]) for n in range(10000)]
    with kubelet(path, lambda _: response(*many)):
        held = list_devices(path, timeout_seconds=30)
    assert [each.device_id for each in held] == [f"GPU-{n}" for n in range(10000)]


def test_socket_path_longer_than_a_socket_address(tmp_path: Path) -> None:
    """A root deep in the file system makes no difference, although a socket address holds 107 bytes."""
    short = tmp_path / "kubelet.sock"
    deep = tmp_path / ("d" * 120)
    deep.mkdir()
    with kubelet(short, lambda _: LISTED):
        (deep / "kubelet.sock").symlink_to(short)
        assert list_devices(deep / "kubelet.sock") == HELD


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (grpc.StatusCode.UNIMPLEMENTED, "12 unimplemented no such thing"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "8 resource exhausted no such thing"),
    ],
)
def test_error_status_is_told(tmp_path: Path, code: grpc.StatusCode, text: str) -> None:
    """What the kubelet refuses with is in the error."""

    def refuse(context: grpc.ServicerContext) -> bytes:
        context.abort(code, "no such thing")
        raise AssertionError("abort raises")

    path = tmp_path / "kubelet.sock"
    with kubelet(path, refuse), pytest.raises(PodResourcesError, match=f"gRPC status {text}"):
        list_devices(path)


def test_silent_kubelet_costs_only_the_deadline(tmp_path: Path) -> None:
    """A call that is never answered ends by its deadline."""
    path = tmp_path / "kubelet.sock"
    release = threading.Event()

    def hang(_: grpc.ServicerContext) -> bytes:
        release.wait(30)
        return b""

    with kubelet(path, hang):
        with pytest.raises(PodResourcesError):
            list_devices(path, timeout_seconds=0.3)
        assert not release.is_set(), "the call ended although the kubelet still holds it"
        release.set()


@pytest.mark.parametrize("said", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b""])
def test_other_servers_are_refused(tmp_path: Path, said: bytes) -> None:
    """Something that is no HTTP/2 server, or closes the connection, is an error of ours, nothing else."""
    path = tmp_path / "kubelet.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            channel, _ = listener.accept()
            with channel:
                channel.recv(24)
                channel.sendall(said)

        server = threading.Thread(target=serve)
        server.start()
        with pytest.raises(PodResourcesError):
            list_devices(path, timeout_seconds=5)
        server.join(5)


def test_missing_socket_is_an_error_of_ours(tmp_path: Path) -> None:
    """No socket, no folder: one kind of error, naming the path."""
    with pytest.raises(PodResourcesError, match=r"none/kubelet\.sock"):
        list_devices(tmp_path / "none" / "kubelet.sock")


@given(st.binary(max_size=200))
def test_random_bytes_never_raise_anything_else(data: bytes) -> None:
    """Whatever the bytes are, decoding gives devices or PodResourcesError."""
    try:
        decode_list(data)
    except PodResourcesError:
        return


@given(st.integers(min_value=0, max_value=len(LISTED) - 1), st.binary(min_size=1, max_size=4))
def test_damaged_answers_never_raise_anything_else(at: int, damage: bytes) -> None:
    """The same for a real answer with a few bytes replaced or its end cut off."""
    for data in (LISTED[:at] + damage + LISTED[at + len(damage) :], LISTED[:at]):
        try:
            decode_list(data)
        except PodResourcesError:
            continue
