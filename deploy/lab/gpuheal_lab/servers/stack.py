"""Prometheus and Alertmanager on free loopback ports, for tests and the demo.

    with Stack(folder) as stack:
        alertmanager = stack.alertmanager(config=webhook_config(url))
        prometheus = stack.prometheus(config=prometheus_config(scrape=[...], alertmanagers=[alertmanager.address]))

All calls block, with deadlines; in a coroutine use `asyncio.to_thread(prometheus.start)`. Ports, data and logs stay the
same over `restart` and `kill` + `start`, so that what survives a crash can be seen.
"""

from __future__ import annotations

import contextlib
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import yaml

from gpuheal_lab.servers.find import find
from gpuheal_lab.servers.process import READY_DEADLINE_S, Child, LabError, free_ports
from gpuheal_lab.servers.sources import Server
from gpuheal_lab.servers.spec import Generation

HTTP_DEADLINE_S = 10.0
POLL_S = 0.1
SCRAPE_SOON = "--scrape.discovery-reload-interval=100ms"
"""Prometheus' own flag, 5 s by default: how often it takes up targets, and so when a fresh one scrapes first."""

T = TypeVar("T")


def prometheus_config(
    *,
    scrape: Sequence[Mapping[str, Any]] = (),
    alertmanagers: Sequence[str] = (),
    scrape_interval: str = "1s",
    evaluation_interval: str = "1s",
    external_labels: Mapping[str, str] | None = None,
    alert_relabel: Sequence[Mapping[str, Any]] = (),
) -> str:
    """A Prometheus configuration that reads `rules/*.yml`; `scrape` are scrape_configs, `alertmanagers` host:port."""
    return yaml.safe_dump(
        {
            "global": {
                "scrape_interval": scrape_interval,
                "scrape_timeout": scrape_interval,
                "evaluation_interval": evaluation_interval,
                "external_labels": dict(external_labels or {}),
            },
            "rule_files": ["rules/*.yml"],
            "scrape_configs": [dict(job) for job in scrape],
            "alerting": {
                "alert_relabel_configs": [dict(rule) for rule in alert_relabel],
                "alertmanagers": [
                    {"api_version": "v2", "static_configs": [{"targets": [peer]}]} for peer in alertmanagers
                ],
            },
        },
        sort_keys=False,
    )


def webhook_config(url: str, *, group_by: Sequence[str] = ("alertname", "node"), group_interval: str = "2s") -> str:
    """An Alertmanager configuration that sends everything to one webhook, fast enough for a test."""
    return yaml.safe_dump(
        {
            "route": {
                "receiver": "webhook",
                "group_by": list(group_by),
                "group_wait": "1s",
                "group_interval": group_interval,
                "repeat_interval": "1h",
            },
            "receivers": [{"name": "webhook", "webhook_configs": [{"url": url, "send_resolved": True}]}],
        },
        sort_keys=False,
    )


class _Web:
    """A server of the stack with an HTTP API on `address`; process control is passed on to its `child`."""

    ready_path = "/-/ready"

    def __init__(self, server: Server, folder: Path, port: int) -> None:
        self.server = server
        self.folder = folder
        self.address = f"127.0.0.1:{port}"
        self.url = f"http://{self.address}"
        self.log_path = folder / "log"
        folder.mkdir(parents=True, exist_ok=True)

    def _make(self, args: Sequence[str]) -> Child:
        called = f"gpuheal-{self.server.name}-{self.address.rpartition(':')[2]}"
        return Child(
            self.server.name,
            self.server.command(*args, folder=self.folder, called=called),
            log_path=self.log_path,
            ready=self._unready,
            after_kill=self.server.after_kill(called),
        )

    child: Child

    def start(self, deadline_s: float = READY_DEADLINE_S) -> None:
        """It runs and answers as ready; raises LabError with the end of its log."""
        self.child.start(deadline_s)

    def stop(self) -> None:
        """It has ended by SIGTERM; its data is written. Repeatable."""
        self.child.stop()

    def kill(self) -> None:
        """It has ended by SIGKILL, as in a power cut. Repeatable."""
        self.child.kill()

    def restart(self) -> None:
        """It was stopped and answers as ready again on the same port, with the same data."""
        self.child.restart()

    def freeze(self) -> None:
        """It stands still: accepts connections and answers nothing, until `thaw`."""
        self.child.freeze()

    def thaw(self) -> None:
        """It runs on after `freeze`."""
        self.child.thaw()

    def get(self, path: str, **query: str) -> Any:
        """The JSON answer to a GET."""
        return self.request("GET", path + ("?" + urllib.parse.urlencode(query) if query else ""))

    def request(self, method: str, path: str, body: Any = None) -> Any:
        """The JSON answer (None for an empty one); raises LabError with status and text of a refusal."""
        data = None if body is None else json.dumps(body).encode()
        asked = urllib.request.Request(  # noqa: S310  # the URL is our own loopback address
            self.url + path, data=data, method=method, headers={"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(asked, timeout=HTTP_DEADLINE_S) as answer:  # noqa: S310
                text = answer.read()
        except urllib.error.HTTPError as error:
            with error:
                raise LabError(f"{method} {self.url}{path}: {error.code} {error.read(2000).decode()}") from error
        except OSError as error:
            raise LabError(f"{method} {self.url}{path}: {error}") from error
        return json.loads(text) if text.startswith((b"{", b"[")) else None

    def _unready(self) -> str | None:
        try:
            self.request("GET", self.ready_path)
        except LabError as error:
            return str(error)
        return None


class Prometheus(_Web):
    """A Prometheus; `config` and `rules` (file name → text) are written to its folder. Not started yet."""

    def __init__(
        self,
        server: Server,
        folder: Path,
        *,
        config: str,
        rules: Mapping[str, str] | None = None,
        flags: Sequence[str] = (),
        port: int | None = None,
    ) -> None:
        super().__init__(server, folder, port if port is not None else free_ports(1)[0])
        self._write(config, rules or {})
        fixed = [
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={self.address}",
            "--web.enable-lifecycle",
            SCRAPE_SOON,
        ]
        self.child = self._make([*fixed, *flags])

    def reload(self, *, config: str | None = None, rules: Mapping[str, str] | None = None) -> None:
        """The given texts are in force; raises LabError with its reason if it keeps the old ones. None = as it is."""
        self._write(config, rules)
        self.request("POST", "/-/reload")

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """The instant vector: labels and value of each series."""
        result = self.get("/api/v1/query", query=expression)["data"]["result"]
        return [(series["metric"], float(series["value"][1])) for series in result]

    def alerts(self) -> list[dict[str, Any]]:
        """Its own pending and firing alerts."""
        found: list[dict[str, Any]] = self.get("/api/v1/alerts")["data"]["alerts"]
        return found

    def targets(self) -> list[dict[str, Any]]:
        """Its active scrape targets."""
        found: list[dict[str, Any]] = self.get("/api/v1/targets")["data"]["activeTargets"]
        return found

    def _write(self, config: str | None, rules: Mapping[str, str] | None) -> None:
        if config is not None:
            (self.folder / "prometheus.yml").write_text(config, encoding="utf-8")
        folder = self.folder / "rules"
        folder.mkdir(exist_ok=True)
        if rules is not None:
            for old in folder.glob("*.yml"):
                old.unlink()
            for name, text in rules.items():
                (folder / name).write_text(text, encoding="utf-8")


class Alertmanager(_Web):
    """An Alertmanager; alone unless it is given a port of its own for peers to gossip on. Not started yet."""

    def __init__(
        self,
        server: Server,
        folder: Path,
        *,
        config: str,
        flags: Sequence[str] = (),
        port: int | None = None,
        gossip_port: int | None = None,
        peers: Sequence[str] = (),
    ) -> None:
        super().__init__(server, folder, port if port is not None else free_ports(1)[0])
        self._write(config)
        fixed = [
            f"--config.file={folder / 'alertmanager.yml'}",
            f"--storage.path={folder / 'data'}",
            f"--web.listen-address={self.address}",
        ]
        if gossip_port is None:
            fixed.append("--cluster.listen-address=")
        else:
            self.gossip_address = f"127.0.0.1:{gossip_port}"
            fixed += [f"--cluster.{kind}-address={self.gossip_address}" for kind in ("listen", "advertise")]
            # 5 s is what a peer waits for one before it; the default 15 s would make every test of a dead peer slow
            fixed += ["--cluster.peer-timeout=5s", "--cluster.reconnect-interval=1s"]
            fixed += [f"--cluster.peer={peer}" for peer in peers]
        self.child = self._make([*fixed, *flags])

    def reload(self, *, config: str | None = None) -> None:
        """The given text is in force; raises LabError with its reason if it keeps the old one."""
        if config is not None:
            self._write(config)
        self.request("POST", "/-/reload")

    def alerts(self) -> list[dict[str, Any]]:
        """Every alert it knows, with status and receivers (API v2)."""
        found: list[dict[str, Any]] = self.get("/api/v2/alerts")
        return found

    def post_alerts(self, alerts: Sequence[Mapping[str, Any]]) -> None:
        """The alerts (API v2: labels, annotations, startsAt, endsAt) are taken in, as if Prometheus had sent them."""
        self.request("POST", "/api/v2/alerts", [dict(alert) for alert in alerts])

    def silence(self, silence: Mapping[str, Any]) -> str:
        """The silence (API v2) is active; returns its id."""
        return str(self.request("POST", "/api/v2/silences", dict(silence))["silenceID"])

    def expire(self, silence_id: str) -> None:
        """The silence ends now."""
        self.request("DELETE", f"/api/v2/silence/{silence_id}")

    def peers(self) -> int:
        """How many members the cluster has, itself included; 0 when alone by configuration."""
        return len(self.get("/api/v2/status")["cluster"].get("peers", []))

    def _write(self, config: str) -> None:
        (self.folder / "alertmanager.yml").write_text(config, encoding="utf-8")


class Stack:
    """A context of servers of one generation (None: whatever is there) in one folder; leaving it ends them all."""

    def __init__(self, folder: Path, generation: Generation | None = None) -> None:
        self.folder = folder
        self.generation = generation
        self._started: list[_Web] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Every server it started has ended, the last one first."""
        for web in reversed(self._started):
            with contextlib.suppress(LabError):
                web.thaw()  # a frozen process would not hear SIGTERM
            web.stop()

    def prometheus(
        self,
        *,
        config: str,
        rules: Mapping[str, str] | None = None,
        flags: Sequence[str] = (),
        name: str = "prometheus",
        port: int | None = None,
    ) -> Prometheus:
        """A Prometheus that answers as ready."""
        server = find("prometheus", self.generation)
        made = Prometheus(server, self.folder / name, config=config, rules=rules, flags=flags, port=port)
        return self._start(made)

    def alertmanager(
        self, *, config: str, flags: Sequence[str] = (), name: str = "alertmanager", port: int | None = None
    ) -> Alertmanager:
        """An Alertmanager that answers as ready, without a cluster."""
        server = find("alertmanager", self.generation)
        return self._start(Alertmanager(server, self.folder / name, config=config, flags=flags, port=port))

    def alertmanager_pair(
        self, *, config: str, flags: Sequence[str] = (), name: str = "alertmanager"
    ) -> tuple[Alertmanager, Alertmanager]:
        """Two Alertmanagers that are ready and know each other."""
        server = find("alertmanager", self.generation)
        ports = free_ports(4)
        pair = []
        for index in (0, 1):
            peer = f"127.0.0.1:{ports[3 - index]}"
            settings: dict[str, Any] = {"port": ports[index], "gossip_port": ports[2 + index], "peers": [peer]}
            made = Alertmanager(server, self.folder / f"{name}-{index}", config=config, flags=flags, **settings)
            pair.append(self._start(made, wait=False))
        for made in pair:
            made.child.wait_ready()
            wait_for(lambda made=made: made.peers() == 2, f"{made.url} to see its peer")  # type: ignore[misc]
        return pair[0], pair[1]

    def _start(self, web: W, *, wait: bool = True) -> W:
        self._started.append(web)
        if wait:
            web.start()
        else:
            web.child.launch()
        return web


W = TypeVar("W", bound=_Web)


def wait_for(check: Callable[[], T], what: str, deadline_s: float = 30.0, poll_s: float = POLL_S) -> T:
    """The first true value `check` returns; LabErrors in between are waited over. Raises LabError naming `what`."""
    end = time.monotonic() + deadline_s
    last = ""
    while time.monotonic() < end:
        try:
            value = check()
        except LabError as error:
            last = str(error)
        else:
            if value:
                return value
            last = f"last seen: {value!r}"
        time.sleep(poll_s)
    raise LabError(f"waited {deadline_s:g} s for {what}; {last}")
