"""How much memory and time following a fleet takes, and what a mark costs against a bare loop, on a real API server.

    python tests/bench/bench_kube.py [--nodes 1000 10000] [--marks 1000] [--page 50] [--json FILE]

The adapter runs in a process of its own, so its RSS is its own. Nodes are 25 KB of JSON each: images, labels and
annotations.
Goals: RSS <= 150 MB at 1,000 nodes and <= 300 MB at 10,000; marks in <= 1.3 x the bare loop. What is missed is said.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp

from gpuheal_responder.core.undo import conditioned, cordoned, tainted

ROOT = Path(__file__).parents[2]
PARTS = [str(ROOT / part) for part in ("responder", "rules", "exporters", "deploy/lab")]
sys.path[:0] = PARTS

from gpuheal_lab.controlplane.nodes import node_object  # noqa: E402
from gpuheal_lab.controlplane.plane import ControlPlane  # noqa: E402
from gpuheal_responder.core.node import Node, Taint, UndoRecord  # noqa: E402
from gpuheal_responder.core.undo import UNDO_ANNOTATION, dump, mark  # noqa: E402

NODE_BYTES = 25_000
IMAGE_BYTES = 141
CREATORS = 16
CONCURRENCY = 32
RSS_GOALS_MB = {1000: 150, 10_000: 300}
MARK_GOAL = 1.3
OURS = Taint(key="gpu.health/unhealthy", value="true", effect="NoSchedule")


class WallClock:
    """The port Clock."""

    def now(self) -> datetime:
        """The time."""
        return datetime.now(UTC)


def heavy_node(index: int) -> dict[str, Any]:
    """A node as heavy as those of real clusters."""
    node = node_object(f"bench-{index:05d}", zone=f"zone-{index % 4}", rack=f"rack-{index // 16}")
    labels, annotations = node["metadata"]["labels"], node["metadata"].setdefault("annotations", {})
    labels |= {f"feature.node.kubernetes.io/cpu-cpuid.FEATURE-{n}": "true" for n in range(50)}
    labels |= {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3", "nvidia.com/gpu.count": "8"}
    annotations |= {f"example.org/detail-{n}": f"{index}-" + "x" * 180 for n in range(12)}
    images = node["status"].setdefault("images", [])
    missing = NODE_BYTES - len(json.dumps(node))
    for number in range(missing // IMAGE_BYTES + 1):
        images.append({"names": [f"mirror/team/image-{number:02}@sha256:{number:064x}"], "sizeBytes": 10**9 + number})
    return node


def fill(plane: ControlPlane, have: int, want: int) -> float:
    """There are `want` nodes; returns creations per second."""
    began = time.monotonic()
    with ThreadPoolExecutor(CREATORS) as pool:
        list(pool.map(lambda i: plane.admin.create("/api/v1/nodes", heavy_node(i)), range(have, want)))
    return (want - have) / (time.monotonic() - began)


def memory_mb(field: str) -> float:
    """VmRSS (now) or VmHWM (the most so far) of this process; ru_maxrss would tell of the process that started it."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    (kib,) = (int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))
    return kib * 1024 / 1e6


async def follow(kubeconfig: Path, page: int) -> dict[str, float]:
    """Follow nodes and Remediations like the responder; return what it took."""
    from gpuheal_responder.shell.kube.api import connect
    from gpuheal_responder.shell.kube.cluster import ClusterSettings, KubeCluster
    from gpuheal_responder.shell.kube.mirror import WatchSettings

    began = time.monotonic()
    api = await connect(kubeconfig)
    before = memory_mb("VmRSS")
    cluster = KubeCluster(api, WallClock(), ClusterSettings(watch=WatchSettings(page=page)))
    stalls: list[float] = []
    watching = asyncio.create_task(_stalls(stalls))
    cluster.start()
    await cluster.mirror.wait_synced(timedelta(minutes=2))
    found = {"ready_s": time.monotonic() - began, "longest_stall_ms": 1000 * max(stalls, default=0.0)}
    watching.cancel()
    found |= {"nodes": len(await cluster.nodes()), "rss_before_mb": before, "rss_mb": memory_mb("VmRSS")}
    await cluster.stop()
    cluster.mirror._version = ""  # as after 410 Gone: a second list while the first is still held
    cluster.start()
    end = time.monotonic() + 120
    while cluster.mirror.lists < 2 and time.monotonic() < end:  # noqa: ASYNC110  # a poll with a deadline
        await asyncio.sleep(0.05)
    found |= {"rss_after_relist_mb": memory_mb("VmRSS"), "peak_mb": memory_mb("VmHWM")}
    await cluster.stop()
    await api.close()
    return found


async def _stalls(stalls: list[float]) -> None:
    """Note how late the loop wakes us."""
    while True:
        began = time.monotonic()
        await asyncio.sleep(0.005)
        stalls.append(time.monotonic() - began - 0.005)


def record_of(node: Node) -> UndoRecord:
    """An undo record of usual size."""
    return UndoRecord(
        case=f"{node.name}-1",
        owner="gpuheal",
        at=datetime.now(UTC),
        policy="hgx-training",
        faults=("gpu-fell-off-bus",),
        changes=(tainted(OURS), cordoned(), conditioned("GPUHealthy", None)),
        node_uid=node.uid,
        system_uuid=node.system_uuid,
        boot_id=node.boot_id,
        gpus=tuple(f"GPU-{n:036d}" for n in range(8)),
    )


async def each(items: Sequence[Any], do: Callable[[Any], Awaitable[object]]) -> float:
    """Do it for all, 32 at a time; return the seconds it took."""
    gate, began = asyncio.Semaphore(CONCURRENCY), time.monotonic()

    async def one(item: Any) -> None:
        async with gate:
            await do(item)

    await asyncio.gather(*map(one, items))
    return time.monotonic() - began


async def marks(plane: ControlPlane, count: int) -> dict[str, float]:
    """Mark `count` nodes by a bare loop, release them, and mark them by the adapter; return seconds and their ratio."""
    from gpuheal_responder.shell.kube.api import connect
    from gpuheal_responder.shell.kube.cluster import KubeCluster

    api = await connect(plane.kubeconfig())
    cluster = KubeCluster(api, WallClock())
    cluster.start()
    await cluster.mirror.wait_synced(timedelta(minutes=2))
    nodes = list((await cluster.nodes()).values())[:count]
    trust = ssl.create_default_context(cafile=str(plane.ca_file))
    headers = {"Authorization": f"Bearer {plane.tokens['admin']}"}
    rounds: dict[str, list[float]] = {"bare": [], "adapter": []}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trust), headers=headers) as session:

        async def patch(name: str, spec: dict[str, Any], text: str | None) -> None:
            body = {"metadata": {"annotations": {UNDO_ANNOTATION: text}}, "spec": spec}
            async with session.patch(
                f"{plane.url}/api/v1/nodes/{name}",
                data=json.dumps(body),
                headers={"Content-Type": "application/merge-patch+json"},
            ) as answer:
                answer.raise_for_status()
                await answer.read()

        taint = {"key": OURS.key, "value": OURS.value, "effect": OURS.effect}
        bare = {"taints": [taint], "unschedulable": True}
        for _ in range(3):
            rounds["bare"].append(await each(nodes, lambda n: patch(n.name, bare, dump(record_of(n)))))
            await each(nodes, lambda n: patch(n.name, {"taints": None, "unschedulable": None}, None))
            fresh = [n for name in nodes if (n := await cluster.node(name.name)) is not None]
            rounds["adapter"].append(await each(fresh, lambda n: cluster.mark(n, mark(n, record_of(n)))))
            await each(nodes, lambda n: patch(n.name, {"taints": None, "unschedulable": None}, None))
    await cluster.stop()
    await api.close()
    best = {key: min(found) for key, found in rounds.items()}
    return {
        "marks": count,
        "bare_s": best["bare"],
        "adapter_s": best["adapter"],
        "ratio": best["adapter"] / best["bare"],
    }


def run(nodes: Sequence[int], mark_count: int, page: int) -> dict[str, Any]:
    """All figures."""
    found: dict[str, Any] = {"follow": []}
    with tempfile.TemporaryDirectory() as folder:
        plane = ControlPlane(Path(folder))
        plane.etcd.start()
        plane.apiserver.start()
        try:
            have = 0
            for want in sorted(nodes):
                rate = fill(plane, have, want)
                have = want
                print(f"{want} nodes of {len(json.dumps(heavy_node(1)))} bytes, created at {rate:.0f}/s", flush=True)
                argv = [sys.executable, __file__, "--child", str(plane.kubeconfig()), "--page", str(page)]
                env = {**os.environ, "PYTHONPATH": os.pathsep.join(PARTS)}
                said = subprocess.run(argv, env=env, check=True, capture_output=True, text=True, timeout=300).stdout
                figures = json.loads(said)
                found["follow"].append(figures)
                print("  " + ", ".join(f"{key} {value:.1f}" for key, value in figures.items()), flush=True)
                if want == min(nodes) and mark_count:
                    found["marks"] = asyncio.run(marks(plane, min(mark_count, want)))
                    print("  " + ", ".join(f"{key} {value:.2f}" for key, value in found["marks"].items()), flush=True)
        finally:
            plane.close()
    return found


def main(argv: Sequence[str]) -> int:
    """Print the figures, and which goals were missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--nodes", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--marks", type=int, default=1000)
    parser.add_argument("--page", type=int, default=50)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.child:
        print(json.dumps(asyncio.run(follow(args.child, args.page))))
        return 0
    found = run(args.nodes, args.marks, args.page)
    if args.json:
        args.json.write_text(json.dumps(found, indent=2), encoding="utf-8")
    missed = [f for f in found["follow"] if f["peak_mb"] > RSS_GOALS_MB.get(int(f["nodes"]), float("inf"))]
    slow = found.get("marks", {}).get("ratio", 0) > MARK_GOAL
    for figures in missed:
        print(f"missed: {figures['peak_mb']:.0f} MB at {figures['nodes']:.0f} nodes")
    if slow:
        print(f"missed: marks took {found['marks']['ratio']:.2f} x the bare loop")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
