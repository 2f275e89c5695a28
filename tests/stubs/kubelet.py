"""A kubelet's pod-resources service: real gRPC (grpcio) on a unix socket, its messages built from their own
descriptors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

Field = descriptor_pb2.FieldDescriptorProto
_MESSAGES: dict[str, list[tuple[str, int, str, bool]]] = {
    # message -> (field, number, type, repeated), from k8s.io/kubelet pkg/apis/podresources/v1/api.proto
    "ListPodResourcesRequest": [],
    "ListPodResourcesResponse": [("pod_resources", 1, "PodResources", True)],
    "PodResources": [
        ("name", 1, "string", False),
        ("namespace", 2, "string", False),
        ("containers", 3, "ContainerResources", True),
        ("cpu_ids", 4, "int64", True),
    ],
    "ContainerResources": [
        ("name", 1, "string", False),
        ("devices", 2, "ContainerDevices", True),
        ("cpu_ids", 3, "int64", True),
        ("memory", 4, "ContainerMemory", True),
        ("dynamic_resources", 5, "DynamicResource", True),
    ],
    "ContainerMemory": [("memory_type", 1, "string", False), ("size", 2, "uint64", False)],
    "ContainerDevices": [
        ("resource_name", 1, "string", False),
        ("device_ids", 2, "string", True),
        ("topology", 3, "TopologyInfo", False),
    ],
    "TopologyInfo": [("nodes", 1, "NUMANode", True)],
    "NUMANode": [("ID", 1, "int64", False)],
    "DynamicResource": [
        ("claim_name", 2, "string", False),
        ("claim_namespace", 3, "string", False),
        ("claim_resources", 4, "ClaimResource", True),
    ],
    "ClaimResource": [
        ("cdi_devices", 1, "CDIDevice", True),
        ("driver_name", 2, "string", False),
        ("pool_name", 3, "string", False),
        ("device_name", 4, "string", False),
    ],
    "CDIDevice": [("name", 1, "string", False)],
}
_SCALARS = {"string": Field.TYPE_STRING, "int64": Field.TYPE_INT64, "uint64": Field.TYPE_UINT64}


def _response_class() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="podresources.proto", package="v1", syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, kind, repeated in fields:
            label = Field.LABEL_REPEATED if repeated else Field.LABEL_OPTIONAL
            made = message.field.add(name=field, number=number, label=label)
            if kind in _SCALARS:
                made.type = _SCALARS[kind]
            else:
                made.type, made.type_name = Field.TYPE_MESSAGE, f".v1.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("v1.ListPodResourcesResponse"))


RESPONSE = _response_class()


def pod(namespace: str, name: str, container: str, **held: object) -> dict[str, object]:
    """A pod with one container: `resource` and `devices`, and/or `claims` as (driver, device) pairs."""
    devices: object = held.get("devices")
    claims: Any = held.get("claims") or []
    content: dict[str, object] = {
        "name": container,
        "cpu_ids": [0, 300],
        "memory": [{"memory_type": "memory", "size": 1}],
    }
    if devices:
        topology = {"nodes": [{"ID": 1}]}
        content["devices"] = [{"resource_name": held["resource"], "device_ids": devices, "topology": topology}]
    if claims:
        resources = [
            {"driver_name": driver, "pool_name": "node-1", "device_name": device, "cdi_devices": [{"name": "x=y"}]}
            for driver, device in claims
        ]
        content["dynamic_resources"] = [{"claim_name": "c", "claim_namespace": namespace, "claim_resources": resources}]
    return {"name": name, "namespace": namespace, "containers": [content], "cpu_ids": [7]}


def response(*pods: dict[str, object]) -> bytes:
    """A serialised ListPodResourcesResponse."""
    data: bytes = RESPONSE(pod_resources=pods).SerializeToString()
    return data


@contextmanager
def kubelet(path: Path, answer: Callable[[grpc.ServicerContext], bytes]) -> Iterator[None]:
    """The service listens on this unix socket; `answer` makes the bytes of each List call."""

    def listing(request: bytes, context: grpc.ServicerContext) -> bytes:
        assert request == b"", "ListPodResourcesRequest has no fields"
        return answer(context)

    with ThreadPoolExecutor(max_workers=2) as workers:
        server = grpc.server(workers)
        handlers: dict[str, Any] = {"List": grpc.unary_unary_rpc_method_handler(listing)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("v1.PodResourcesLister", handlers),))
        server.add_insecure_port(f"unix:{path}")
        server.start()
        try:
            yield
        finally:
            server.stop(None).wait(5)
