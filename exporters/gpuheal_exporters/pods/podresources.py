"""Which container holds which device: the kubelet's PodResourcesLister.List over its unix socket, without grpcio.

grpcio would double the exporter's memory (20 MB); here HTTP/2 comes from `h2` (2 MB, loaded only where the socket
exists) and the answer's few protobuf fields are read by hand. API: k8s.io/kubelet pkg/apis/podresources/v1/api.proto;
framing: gRPC over HTTP/2 (github.com/grpc/grpc doc/PROTOCOL-HTTP2.md).
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from h2.connection import H2Connection

SOCKET = "var/lib/kubelet/pod-resources/kubelet.sock"
METHOD = "/v1.PodResourcesLister/List"
MAX_BYTES = 16 << 20  # the kubelet's own limit for this answer (pkg/kubelet/apis/podresources)
DRA_DRIVER = "gpu.nvidia.com"
DEVICE_PREFIX = "nvidia.com/"
_PREFIX = 5  # compression flag and four bytes of length before each gRPC message
_CODES = {"4": "deadline exceeded", "7": "permission denied", "8": "resource exhausted", "12": "unimplemented"}


class PodResourcesError(Exception):
    """The kubelet could not be asked, or what it said is not a List answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldDevice:
    """One device of one container; `device_id` as the device plugin or DRA driver names it."""

    namespace: str
    pod: str
    container: str
    resource: str
    device_id: str


def list_devices(path: Path, timeout_seconds: float = 5.0) -> tuple[HeldDevice, ...]:
    """Return the NVIDIA devices held by containers now, from device plugins and DRA; raises PodResourcesError."""
    try:
        return decode_list(_call(path, METHOD, b"", timeout_seconds))
    except OSError as error:
        raise PodResourcesError(f"{path}: {error.strerror or error}") from error


def _call(path: Path, method: str, message: bytes, timeout_seconds: float) -> bytes:
    """Return the single answer of a unary gRPC call."""
    from h2.config import H2Configuration
    from h2.connection import H2Connection
    from h2.exceptions import ProtocolError

    until = time.monotonic() + timeout_seconds
    connection = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
    with _connect(path, timeout_seconds) as channel:
        try:
            connection.initiate_connection()
            connection.send_headers(
                1,
                [
                    (":method", "POST"),
                    (":scheme", "http"),
                    (":path", method),
                    (":authority", "localhost"),
                    ("content-type", "application/grpc"),
                    ("te", "trailers"),
                    ("grpc-timeout", f"{int(timeout_seconds * 1000)}m"),
                ],
            )
            connection.send_data(1, b"\0" + len(message).to_bytes(4, "big") + message, end_stream=True)
            return _answer(channel, connection, until)
        except ProtocolError as error:
            raise PodResourcesError(f"{path}: not HTTP/2: {error}") from error


def _connect(path: Path, timeout_seconds: float) -> socket.socket:
    """Return a socket connected by way of the folder's descriptor: a socket address holds 107 bytes only."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        channel.settimeout(timeout_seconds)
        channel.connect(f"/proc/self/fd/{folder}/{path.name}")
    except OSError:
        channel.close()
        raise
    finally:
        os.close(folder)
    return channel


def _answer(channel: socket.socket, connection: H2Connection, until: float) -> bytes:
    """Return the message of the one stream, once it ended well."""
    from h2 import events

    body = bytearray()
    status: dict[str, str] = {}
    ended = False
    while not ended:
        channel.sendall(connection.data_to_send())
        left = until - time.monotonic()
        if left <= 0:
            raise PodResourcesError("timed out")
        channel.settimeout(left)
        data = channel.recv(65536)
        if not data:
            raise PodResourcesError("the kubelet closed the connection")
        for event in connection.receive_data(data):
            if isinstance(event, events.ResponseReceived | events.TrailersReceived):
                status |= {str(name): str(value) for name, value in event.headers}
            elif isinstance(event, events.DataReceived):
                body += event.data
                if len(body) > MAX_BYTES:
                    raise PodResourcesError(f"response larger than {MAX_BYTES} bytes")
                connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, events.StreamReset | events.ConnectionTerminated):
                raise PodResourcesError(f"the kubelet ended the call: {event.error_code}")
            ended = ended or isinstance(event, events.StreamEnded)
    return _message(bytes(body), status)


def _message(body: bytes, status: dict[str, str]) -> bytes:
    code = status.get("grpc-status", "missing")
    if code != "0":
        why = " ".join(filter(None, [code, _CODES.get(code), status.get("grpc-message")]))
        raise PodResourcesError(f"gRPC status {why}")
    if len(body) < _PREFIX or body[0] or int.from_bytes(body[1:_PREFIX], "big") != len(body) - _PREFIX:
        raise PodResourcesError("not one uncompressed gRPC message")
    return body[_PREFIX:]


def decode_list(data: bytes) -> tuple[HeldDevice, ...]:
    """Return the NVIDIA devices in a ListPodResourcesResponse; raises PodResourcesError on bytes that are none."""
    found: list[HeldDevice] = []
    for pod in _messages(data, 1):
        name, namespace = _string(pod, 1), _string(pod, 2)
        for container in _messages(pod, 3):
            label = _string(container, 1)
            for resource, device_id in _devices(container):
                found.append(
                    HeldDevice(namespace=namespace, pod=name, container=label, resource=resource, device_id=device_id)
                )
    return tuple(found)


def _devices(container: bytes) -> Iterator[tuple[str, str]]:
    """Yield (resource or driver, device id) of a ContainerResources."""
    for devices in _messages(container, 2):
        resource = _string(devices, 1)
        if resource.startswith(DEVICE_PREFIX):
            for device_id in _messages(devices, 2):
                yield resource, _text(device_id)
    for dynamic in _messages(container, 5):
        for claim in _messages(dynamic, 4):
            if _string(claim, 2) == DRA_DRIVER:
                yield DRA_DRIVER, _string(claim, 4)


def _messages(data: bytes, wanted: int) -> Sequence[bytes]:
    """Return every length-delimited field with this number."""
    return [value for number, value in _fields(data) if number == wanted]


def _string(data: bytes, wanted: int) -> str:
    """Return the last occurrence of a string field, as protobuf wants it; empty when missing."""
    values = _messages(data, wanted)
    return _text(values[-1]) if values else ""


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise PodResourcesError("a name is not UTF-8") from error


def _fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (number, bytes) of the length-delimited fields of one message; other fields are passed over."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            _, at = _varint(data, at)
            continue
        size = {1: 8, 5: 4}.get(kind)
        if size is None and kind == 2:
            size, at = _varint(data, at)
        if size is None or at + size > len(data):
            raise PodResourcesError("not a protobuf message")
        if kind == 2:
            yield key >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 64:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise PodResourcesError("not a protobuf message")
