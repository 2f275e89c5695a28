"""How Prometheus finds the simulated exporters: file service discovery with the labels a real site attaches."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gpuheal_lab.fleet.spec import NodeSpec

DCGM, EXPORTER, KUBE = "dcgm-exporter", "gpuheal-exporter", "kube-state-metrics"
# Ports the real exporters listen on; here they only make `instance` look as usual.
_PORTS = {DCGM: 9400, EXPORTER: 9845}
_PATHS = {DCGM: "dcgm", EXPORTER: "exporter"}


def targets(specs: Iterable[NodeSpec], address: str) -> Mapping[str, list[dict[str, Any]]]:
    """Target groups by job name; every node is a target of `address` with a path of its own."""
    specs = list(specs)
    found: dict[str, list[dict[str, Any]]] = {
        job: [{"targets": [address], "labels": _labels(spec, job)} for spec in specs] for job in (DCGM, EXPORTER)
    }
    labels = {"__metrics_path__": "/kube-state-metrics/metrics", "instance": "kube-state-metrics:8080"}
    found[KUBE] = [{"targets": [address], "labels": labels}]
    return found


def _labels(spec: NodeSpec, job: str) -> dict[str, str]:
    labels = {
        "__metrics_path__": f"/nodes/{spec.name}/{_PATHS[job]}/metrics",
        "instance": f"{spec.name}:{_PORTS[job]}",
        "node": spec.name,
        "rack": spec.rack,
        "zone": spec.zone,
        "pool": spec.pool,
    }
    return {**labels, "fabric_domain": spec.fabric_domain} if spec.fabric_domain else labels


def write(folder: Path, specs: Iterable[NodeSpec], address: str) -> list[dict[str, Any]]:
    """The scrape_configs that read the files written to `folder`, one file and one job per kind of exporter.

    Files appear whole: Prometheus may read the folder while they are written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for job, groups in targets(specs, address).items():
        part = folder / f"{job}.json.part"
        part.write_text(json.dumps(groups, indent=1), encoding="utf-8")
        part.replace(folder / f"{job}.json")
    return scrape_configs(folder)


def scrape_configs(folder: Path) -> list[dict[str, Any]]:
    """One job per kind of exporter; kube-state-metrics keeps its own label `node`."""
    jobs: Sequence[str] = (DCGM, EXPORTER, KUBE)
    return [
        {
            "job_name": job,
            "honor_labels": job == KUBE,
            "file_sd_configs": [{"files": [str(folder / f"{job}.json")]}],
        }
        for job in jobs
    ]
