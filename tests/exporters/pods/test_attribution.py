"""From a process or a GPU to the pod whose work it was."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.stubs.kubelet import kubelet, pod, response

from gpuheal_exporters.collectors.pods import PodCollector
from gpuheal_exporters.host.inventory import NodeInventory
from gpuheal_exporters.nvml.snapshot import Gpu, MigInstance, NvmlSnapshot, NvmlState
from gpuheal_exporters.pods.attribution import CgroupOwner, NodeAttribution, parse_cgroup, pod_names, process_owner

UID = "0b5a1f3e-9c3a-4f57-9d6e-2f1f0a6c7b11"
SLICE = UID.replace("-", "_")
CONTAINER = "4f" * 32
STATIC = "d9f6c1b2a3948576d9f6c1b2a3948576"
SYSTEMD = f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{SLICE}.slice"
OWNER = CgroupOwner(pod_uid=UID, container_id=CONTAINER)

CGROUPS = {
    "v2, systemd, containerd": (f"0::{SYSTEMD}/cri-containerd-{CONTAINER}.scope\n", OWNER),
    "v2, systemd, CRI-O with a child": (f"0::{SYSTEMD}/crio-{CONTAINER}.scope/container\n", OWNER),
    "v2, systemd, Docker": (f"0::{SYSTEMD}/docker-{CONTAINER}.scope\n", OWNER),
    "v2, systemd, guaranteed": (
        f"0::/kubepods.slice/kubepods-pod{SLICE}.slice/cri-containerd-{CONTAINER}.scope",
        OWNER,
    ),
    "v2, cgroupfs, burstable": (f"0::/kubepods/burstable/pod{UID}/{CONTAINER}\n", OWNER),
    "v2, cgroupfs, guaranteed": (f"0::/kubepods/pod{UID}/{CONTAINER}\n", OWNER),
    "v2, seen from a container": (
        f"0::/../../kubepods-besteffort-pod{SLICE}.slice/cri-containerd-{CONTAINER}.scope",
        OWNER,
    ),
    "v1, cgroupfs": (
        f"12:memory:/kubepods/besteffort/pod{UID}/{CONTAINER}\n"
        f"11:cpu,cpuacct:/kubepods/besteffort/pod{UID}/{CONTAINER}\n1:name=systemd:/system.slice/x.service\n",
        OWNER,
    ),
    "v1, systemd": (
        f"10:devices:{SYSTEMD}/cri-containerd-{CONTAINER}.scope\n0::/system.slice/containerd.service",
        OWNER,
    ),
    "containerd without cgroup paths": (
        f"9:pids:/system.slice/containerd.service/kubepods-burstable-pod{SLICE}.slice:cri-containerd:{CONTAINER}\n",
        OWNER,
    ),
    "static pod": (
        f"0::/kubepods/burstable/pod{STATIC}/{CONTAINER}",
        CgroupOwner(pod_uid=STATIC, container_id=CONTAINER),
    ),
    "pod without container": (f"0::{SYSTEMD}\n", CgroupOwner(pod_uid=UID)),
    "kubelet inside a container: the inner pod": (
        f"0::/kubepods/pod11111111-1111-1111-1111-111111111111/{'0e' * 32}/kubelet/kubepods/pod{UID}/{CONTAINER}",
        OWNER,
    ),
    "service": ("0::/system.slice/nvidia-persistenced.service\n", None),
    "plain Docker": (f"0::/docker/{CONTAINER}\n", None),
    "a service whose name begins with pod": ("0::/system.slice/podman.service\n", None),
    "kernel": ("0::/\n", None),
    "empty": ("", None),
}


@pytest.mark.parametrize(("text", "owner"), CGROUPS.values(), ids=CGROUPS.keys())
def test_cgroup_names_the_pod(text: str, owner: CgroupOwner | None) -> None:
    """Every cgroup layout gives the pod and container it stands for, and none where there is no pod."""
    assert parse_cgroup(text) == owner


@given(st.text(alphabet="0:/kubepods.-_abcdef1\n", max_size=200))
def test_any_cgroup_text_is_survived(text: str) -> None:
    """Whatever a cgroup is called, there is an owner with a UID or none."""
    owner = parse_cgroup(text)
    assert owner is None or owner.pod_uid


def uuid(index: int) -> str:
    return f"GPU-{index}"


@pytest.fixture
def inventory() -> NodeInventory:
    """Two GPUs, the second one with a MIG device."""
    mig = MigInstance(uuid="MIG-7", gpu_instance=1, compute_instance=0)
    gpus = (
        Gpu(uuid=uuid(0), pci="0000:1b:00", minor=0),
        Gpu(uuid=uuid(1), pci="0000:43:00", minor=1, instances=(mig,)),
    )
    made = NodeInventory(boot_id="b", now=lambda: 0.0)
    made.update(NvmlSnapshot(state=NvmlState.OK, enumerated=True, gpus=gpus))
    return made


def write_process(root: Path, pid: int, text: str) -> Path:
    folder = root / "proc" / str(pid)
    folder.mkdir(parents=True)
    (folder / "cgroup").write_text(text)
    (root / "proc/2").mkdir(exist_ok=True)
    (root / "proc/2/comm").write_text("kthreadd\n")
    return folder


def test_process_gives_pod_and_container(tmp_path: Path, inventory: NodeInventory) -> None:
    """The pid of an Xid leads to the pod's UID by its cgroup and to its name by the kubelet's log folder."""
    write_process(tmp_path, 4242, CGROUPS["v2, systemd, containerd"][0])
    (tmp_path / f"var/log/pods/team-a_train-0_{UID}").mkdir(parents=True)
    attribution = NodeAttribution(inventory, root=tmp_path)
    assert attribution(pid=4242, gpu_uuid=uuid(0), pci_bus_id="0000:1b:00") == {
        "namespace": "team-a",
        "pod": "train-0",
        "pod_uid": UID,
        "container_id": CONTAINER,
        "by": "process",
    }
    assert attribution(pid=4243, gpu_uuid="", pci_bus_id="") == {}


def test_pid_of_another_namespace_is_not_believed(tmp_path: Path, inventory: NodeInventory) -> None:
    """In a container without the host's PID namespace the kernel's pid names some other process: nobody is accused."""
    write_process(tmp_path, 4242, CGROUPS["v2, systemd, containerd"][0])
    (tmp_path / "proc/2/comm").write_text("sh\n")
    assert NodeAttribution(inventory, root=tmp_path)(pid=4242, gpu_uuid="", pci_bus_id="") == {}


def test_ended_process_keeps_its_owner_for_a_while(tmp_path: Path, inventory: NodeInventory) -> None:
    """A flood of events of one process reads its cgroup once in a few seconds, and its end does not lose the owner at
    once.
    """
    now = [0.0]
    attribution = NodeAttribution(inventory, root=tmp_path, clock=lambda: now[0])
    folder = write_process(tmp_path, 7, CGROUPS["v2, cgroupfs, guaranteed"][0])
    assert attribution(pid=7, gpu_uuid="", pci_bus_id="")["pod_uid"] == UID
    (folder / "cgroup").unlink()
    now[0] = 6.0
    assert attribution(pid=7, gpu_uuid="", pci_bus_id="")["pod_uid"] == UID
    now[0] = 60.0
    assert attribution(pid=7, gpu_uuid="", pci_bus_id="") == {}


def test_device_gives_its_holders(tmp_path: Path, inventory: NodeInventory) -> None:
    """Without a process the GPU's holders at the kubelet's last answer are told, by UUID, MIG device, minor or
    address.
    """
    path = tmp_path / "kubelet.sock"
    attribution = NodeAttribution(inventory, root=tmp_path, socket_path=path)
    listed = response(
        pod("team-a", "train-0", "pytorch", resource="nvidia.com/gpu", devices=[f"{uuid(0)}::2"]),
        pod("team-b", "serve-0", "vllm", resource="nvidia.com/mig-1g.10gb", devices=["MIG-7"]),
        pod("team-c", "dra-0", "main", claims=[("gpu.nvidia.com", "gpu-1")]),
        pod("team-d", "other-node", "main", resource="nvidia.com/gpu", devices=["GPU-unknown"]),
    )
    with kubelet(path, lambda _: listed):
        assert attribution.refresh()
    first = {"namespace": "team-a", "pod": "train-0", "container": "pytorch", "by": "device"}
    both = {"namespace": "team-b,team-c", "pod": "dra-0,serve-0", "container": "main,vllm", "by": "device"}
    assert attribution(pid=None, gpu_uuid=uuid(0), pci_bus_id="0000:1b:00") == first
    assert attribution(pid=None, gpu_uuid=uuid(1), pci_bus_id="0000:43:00") == both
    assert attribution(pid=None, gpu_uuid="", pci_bus_id="0000:43:00") == both
    assert attribution(pid=None, gpu_uuid="", pci_bus_id="0000:99:00") == {}


def test_info_series_and_last_answer(tmp_path: Path, inventory: NodeInventory) -> None:
    """Who holds a GPU is one info series per container; when the kubelet goes silent it is said, and the last answer
    stays.
    """
    path = tmp_path / "kubelet.sock"
    attribution = NodeAttribution(inventory, root=tmp_path, socket_path=path, now=lambda: 1000.0)
    assert list(PodCollector(attribution).collect()) == [], "no kubelet here: nothing is claimed"
    listed = response(pod("team-a", "train-0", "pytorch", resource="nvidia.com/gpu", devices=[uuid(0), uuid(1)]))
    labels = {"namespace": "team-a", "pod": "train-0", "container": "pytorch"}
    with kubelet(path, lambda _: listed):
        samples = [
            (each.name, each.labels, each.value)
            for family in PodCollector(attribution).collect()
            for each in family.samples
        ]
    assert samples == [
        ("gpuheal_pod_resources_up", {}, 1.0),
        ("gpuheal_pod_resources_observed_timestamp_seconds", {}, 1000.0),
        ("gpuheal_gpu_pod_info", {"gpu_uuid": uuid(0), **labels}, 1.0),
        ("gpuheal_gpu_pod_info", {"gpu_uuid": uuid(1), **labels}, 1.0),
    ]
    path.unlink(missing_ok=True)
    path.touch()
    samples = [
        (each.name, each.labels, each.value)
        for family in PodCollector(attribution).collect()
        for each in family.samples
    ]
    assert samples[0] == ("gpuheal_pod_resources_up", {}, 0.0)
    assert len(samples) == 4
    assert "kubelet.sock" in attribution.problem


def test_foreign_folders_are_no_pods(tmp_path: Path) -> None:
    """Only folders of the form namespace_name_uid under /var/log/pods name pods; a missing folder names none."""
    assert pod_names(tmp_path) == {}
    for name in (f"team-a_train-0_{UID}", "lost+found", "a_b", "a_b_c_d"):
        (tmp_path / "var/log/pods" / name).mkdir(parents=True)
    assert pod_names(tmp_path) == {UID: ("team-a", "train-0")}


def test_running_process_of_this_machine() -> None:
    """The real /proc is read without an error, whatever this test runs in."""
    import os

    owner = process_owner(Path("/"), os.getpid())
    assert owner is None or owner.pod_uid
