"""The alert path on real servers: Prometheus with the generated rules, Alertmanager with the generated routes.

Nothing here is written for the lab: rules come from `gpuheal_rules.render`, routes from `gpuheal_rules.routes`,
only with shorter intervals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from gpuheal_lab.servers.process import LabError, free_ports
from gpuheal_lab.servers.stack import Alertmanager, Prometheus, Stack, prometheus_config, wait_for

PROMETHEUS_JOB = "prometheus"
RESPONDER_JOB = "gpuheal-responder"


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """Where Alertmanager delivers to, where the responder itself listens, and the file with the token it expects."""

    address: str
    token_file: Path
    responder: str = ""
    path: str = "/webhook"

    @property
    def url(self) -> str:
        """The webhook's URL."""
        return f"http://{self.address}{self.path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """A Prometheus and an Alertmanager that are ready; the stack that started them ends them."""

    prometheus: Prometheus
    alertmanager: Alertmanager

    def wait_for_fleet(self, count: int, deadline_s: float = 30.0) -> None:
        """Every GPU of the fleet is known from both exporters; raises LabError when that takes too long."""

        wait_for(lambda: self.knows(count), f"Prometheus to know {count} GPUs from two sources", deadline_s)

    def knows(self, count: int) -> bool:
        """Whether every GPU of the fleet is known from both exporters; raises LabError when Prometheus is silent."""
        found = self.prometheus.query("count by (source) (gpuheal:gpu_identity)")
        return sorted(labels["source"] for labels, value in found if value == count) == ["dcgm", "exporter"]


def start(
    stack: Stack,
    *,
    scrape: Sequence[Mapping[str, Any]],
    webhook: Webhook,
    cluster: str,
    interval: timedelta = timedelta(seconds=1),
    ports: tuple[int, int] | None = None,
) -> Pipeline:
    """The alert path runs: scrape and evaluation every `interval`, alerts of `cluster` to the webhook at once.

    `ports` are Alertmanager's and Prometheus', by default free ones.
    """
    from gpuheal_rules.routes.alertmanager import AlertmanagerParams, render_config

    every = f"{interval.total_seconds():g}s"
    alertmanager_port, prometheus_port = ports or free_ports(2)
    params = AlertmanagerParams(webhook_url=webhook.url, bearer_token_file=str(webhook.token_file))
    alertmanager = stack.alertmanager(config=render_config(params), port=alertmanager_port)
    config = prometheus_config(
        scrape=[*scrape, _own_job(prometheus_port), _responder_job(webhook)],
        alertmanagers=[alertmanager.address],
        scrape_interval=every,
        evaluation_interval=every,
        external_labels={"cluster": cluster},
    )
    flags = [f"--rules.alert.resend-delay={every}"]
    texts = {"gpuheal.yml": rules(interval)}
    prometheus = stack.prometheus(config=config, rules=texts, flags=flags, port=prometheus_port)
    return Pipeline(prometheus=prometheus, alertmanager=alertmanager)


def rules(interval: timedelta) -> str:
    """The generated rule file for sources and evaluations of this interval."""
    from gpuheal_rules.catalogue.load import load_catalogue
    from gpuheal_rules.options import Options
    from gpuheal_rules.render import build_groups, rule_file

    options = Options(interval=interval, scrape_interval=interval)
    return rule_file(build_groups(load_catalogue(), options))


def alert_of(alertmanager: Alertmanager, *, node: str, fault: str) -> Mapping[str, Any] | None:
    """The alert about this fault of this node as Alertmanager has it, or None."""
    try:
        found = alertmanager.alerts()
    except LabError:
        return None
    wanted = {"node": node, "fault": fault}
    return next((alert for alert in found if wanted.items() <= alert["labels"].items()), None)


def scrape_token(token_file: Path) -> Path:
    """Return the file beside the webhook's token that holds the one for /metrics; it is made if it is not there."""
    path = token_file.with_name("metrics-token")
    if not path.exists():
        path.write_text("lab-scrape", encoding="utf-8")
    return path


def _own_job(port: int) -> Mapping[str, Any]:
    return {"job_name": PROMETHEUS_JOB, "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}


def _responder_job(webhook: Webhook) -> Mapping[str, Any]:
    return {
        "job_name": RESPONDER_JOB,
        "authorization": {"type": "Bearer", "credentials_file": str(scrape_token(webhook.token_file))},
        "static_configs": [{"targets": [webhook.responder or webhook.address]}],
    }
