"""HTTP: metrics, events and the authenticated acknowledgement, through real sockets."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gpuheal_exporters.collectors.kernel import KernelCollector
from gpuheal_exporters.connections import MAX_CONNECTIONS
from gpuheal_exporters.host.identity import GpuIdentity, StaticInventory
from gpuheal_exporters.node.state import NodeExporterState
from gpuheal_exporters.server import MAX_BODY, App, serve

UUID = "GPU-1"


class Site:
    """A served node and a client for it."""

    def __init__(self, token_file: Path | None) -> None:
        inventory = StaticInventory([GpuIdentity(gpu_uuid=UUID, pci_bus_id="0000:3b:00")])
        self.state = NodeExporterState(inventory=inventory, boot_id="b", clock=lambda: 1000.0)
        self.persisted = 0
        self.healthy = True
        self.app = App(
            state=self.state,
            collector=KernelCollector(self.state),
            token_file=token_file,
            persist=self.persist,
            healthy=lambda: self.healthy,
        )
        self.server = serve(self.app, "127.0.0.1", 0)
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def persist(self) -> bool:
        self.persisted += 1
        return True

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        token: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
            sent = {**({"Authorization": f"Bearer {token}"} if token is not None else {}), **(headers or {})}
            connection.request(method, path, content, sent)
            answer = connection.getresponse()
            text = answer.read().decode()
            return answer.status, json.loads(text) if "json" in answer.headers["Content-Type"] else text
        finally:
            connection.close()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text("first\n")
    return path


@pytest.fixture
def site(token_file: Path) -> Iterator[Site]:
    made = Site(token_file)
    yield made
    made.close()


@pytest.fixture
def open_site() -> Iterator[Site]:
    made = Site(None)
    yield made
    made.close()


def latch(site: Site, code: int = 48, at: float = 500.0) -> None:
    site.state.feed_line(f"NVRM: Xid (PCI:0000:3b:00): {code}, text", at)


def test_metrics_are_served_as_text(site: Site) -> None:
    """/metrics holds the node's levels in the exposition format."""
    latch(site)
    status, text = site.request("GET", "/metrics")
    assert status == 200
    assert 'gpuheal_xid_latched{gpu_uuid="GPU-1",pci_bus_id="0000:3b:00",xid="48"} 1.0' in text.splitlines()


def test_any_client_gets_the_plain_text_format(site: Site) -> None:
    """Whatever a client prefers it gets format 0.0.4, which every Prometheus reads; other methods are refused."""
    latch(site)
    status, text = site.request("GET", "/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert status == 200
    assert "# TYPE gpuheal_xid_total counter" in text.splitlines()
    assert site.request("POST", "/metrics", b"")[0] == 405


def test_an_acknowledgement_settles_levels_and_is_written(site: Site) -> None:
    """With the token, levels up to `until` end, the answer says how many, and the state is on disk before it."""
    latch(site)
    assert site.request("POST", "/v1/acknowledge", {"until": 499.0, "gpu_uuid": UUID}, "first") == (
        200,
        {"cleared": 0, "persisted": True},
    )
    body = {"until": 500.0, "gpu_uuid": UUID, "xid": 48}
    assert site.request("POST", "/v1/acknowledge", body, "first") == (200, {"cleared": 1, "persisted": True})
    assert site.persisted == 2
    assert site.app.outcomes == {"accepted": 2}


@pytest.mark.parametrize("token", [None, "", "second", "firs", "FIRST"])
def test_without_the_token_nothing_is_acknowledged(site: Site, token: str | None) -> None:
    """A missing, wrong or almost right token is 401 and changes nothing; /events is closed the same way."""
    latch(site)
    assert site.request("POST", "/v1/acknowledge", {"until": 900}, token)[0] == 401
    assert site.request("GET", "/events", None, token)[0] == 401
    assert site.app.outcomes == {"unauthorized": 1}
    assert any(entry.latched for _, entry in site.state.levels.xids.items())


def test_a_rotated_token_holds_at_once(site: Site, token_file: Path) -> None:
    """The file is read for every request: the new token is right and the old one wrong from now on."""
    token_file.write_text("second")
    assert site.request("POST", "/v1/acknowledge", {"until": 1}, "first")[0] == 401
    assert site.request("POST", "/v1/acknowledge", {"until": 1}, "second")[0] == 200


@pytest.mark.parametrize("content", [None, "", " \n"])
def test_an_empty_or_missing_token_file_lets_nobody_in(site: Site, token_file: Path, content: str | None) -> None:
    """An empty token never matches; an unreadable file is 503."""
    if content is None:
        token_file.unlink()
    else:
        token_file.write_text(content)
    assert site.request("POST", "/v1/acknowledge", {"until": 1}, "")[0] == (503 if content is None else 401)


def test_without_a_token_file_acknowledging_is_off(open_site: Site) -> None:
    """403 says which option is missing; /events is open then."""
    status, answer = open_site.request("POST", "/v1/acknowledge", {"until": 1}, "x")
    assert status == 403
    assert "--token-file" in answer["error"]
    assert open_site.request("GET", "/events") == (200, {"boot_id": "b", "events": []})


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"{", "not JSON"),
        (b"[" * 10_000, "not JSON"),
        (b"[]", "not a JSON object"),
        ({}, "until"),
        ({"until": "1"}, "until"),
        ({"until": True}, "until"),
        ({"until": -1}, "until"),
        (b'{"until": NaN}', "until"),
        (b'{"until": Infinity}', "until"),
        ({"until": 1_000_000}, "not milliseconds"),
        ({"until": 1, "gpu": "x"}, "unknown keys: gpu"),
        ({"until": 1, "gpu_uuid": ""}, "gpu_uuid"),
        ({"until": 1, "gpu_uuid": 3}, "gpu_uuid"),
        ({"until": 1, "xid": "48"}, "xid"),
        ({"until": 1, "xid": -1}, "xid"),
        ({"until": 1, "sxid": 1, "gpu_uuid": "x"}, "sxid"),
    ],
)
def test_a_wrong_body_is_named(site: Site, body: object, problem: str) -> None:
    """400 with the reason; nothing is cleared."""
    latch(site)
    status, answer = site.request("POST", "/v1/acknowledge", body, "first")
    assert status == 400
    assert problem in answer["error"]
    assert site.app.outcomes == {"invalid": 1}
    assert any(entry.latched for _, entry in site.state.levels.xids.items())


def test_bodies_are_bounded(site: Site) -> None:
    """A larger body is refused by its announced length; one without a length too."""
    headers = {"Content-Length": str(MAX_BODY + 1)}
    assert site.request("POST", "/v1/acknowledge", b"", "first", headers)[0] == 413
    assert site.request("POST", "/v1/acknowledge", b"", "first", {"Content-Length": "x"})[0] == 400


def test_other_pages_and_methods_are_refused(site: Site) -> None:
    """404 names the pages there are, 405 the right method."""
    assert site.request("GET", "/")[0] == 404
    assert site.request("GET", "/v1/acknowledge", None, "first")[0] == 405
    assert site.request("POST", "/events", b"", "first")[0] == 405


def test_events_are_served_to_who_has_the_token(site: Site) -> None:
    """The ring comes as JSON with the raw text of each event."""
    latch(site)
    status, answer = site.request("GET", "/events", None, "first")
    assert status == 200
    assert [event["text"] for event in answer["events"]] == ["NVRM: Xid (PCI:0000:3b:00): 48, text"]


def test_health_is_the_loop(site: Site) -> None:
    """200 while the exporter's loop turns, 503 when it stopped."""
    assert site.request("GET", "/healthz") == (200, {"healthy": True})
    site.healthy = False
    assert site.request("GET", "/healthz") == (503, {"healthy": False})


def silent(site: Site, client: str) -> socket.socket:
    """A connection from this loopback address that says nothing."""
    return socket.create_connection(("127.0.0.1", site.port), timeout=10, source_address=(client, 0))


@pytest.mark.parametrize("clients", [["127.0.0.1"], ["127.0.0.2"], [f"127.0.0.{number}" for number in range(2, 42)]])
def test_silent_connections_never_stop_a_scrape(site: Site, clients: list[str]) -> None:
    """Hundreds of silent sockets, of the scraper's own address, of one other or of forty: scrape and health answer."""
    idle = [silent(site, client) for client in clients for _ in range(400 // len(clients))]
    try:
        assert site.request("GET", "/metrics")[0] == 200
        assert site.request("GET", "/healthz")[0] == 200
        assert len(site.server.connections) <= MAX_CONNECTIONS  # type: ignore[attr-defined]
    finally:
        for connection in idle:
            connection.close()


def test_a_request_that_trickles_does_not_stop_a_scrape(site: Site) -> None:
    """Clients that always say a little more, never all of it, are the first to go when others come."""
    slow = [silent(site, "127.0.0.3") for _ in range(MAX_CONNECTIONS * 2)]
    try:
        for part in (b"GET /metrics HT", b"TP/1.1\r\n", b"X-A: ", b"1\r\n"):
            for connection in slow:
                with contextlib.suppress(OSError):
                    connection.send(part)
            assert site.request("GET", "/metrics")[0] == 200
    finally:
        for connection in slow:
            connection.close()
