"""The HTTP client every server is asked through: TLS both ways, size, redirects, and changed certificates."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path

import pytest
import trustme
from aiohttp import web
from aiohttp.test_utils import TestServer
from tests.responder.shell.scripted import MakeScript, no_problem

from gpuheal_responder.config.settings import ClientTls, Endpoint
from gpuheal_responder.errors import ConfigError, ObserveError
from gpuheal_responder.shell.sources import client as subject
from gpuheal_responder.shell.sources.client import Client, decoded


def client(url: str, tls: ClientTls | None = None, problem: Callable[[ConfigError], None] = no_problem) -> Client:
    """A client with a short deadline."""
    asked = Endpoint(url=url, timeout=timedelta(seconds=5), tls=tls or ClientTls())
    return Client(asked, source="prometheus", on_problem=problem)


@pytest.fixture
def authority(tmp_path: Path) -> trustme.CA:
    """A certificate authority; its certificate is in ca.pem, a client's in client.pem and client.key."""
    made = trustme.CA()
    made.cert_pem.write_to_path(tmp_path / "ca.pem")
    shown = made.issue_cert("gpuheal")
    shown.private_key_pem.write_to_path(tmp_path / "client.key")
    (tmp_path / "client.pem").write_bytes(b"".join(blob.bytes() for blob in shown.cert_chain_pems))
    return made


@pytest.fixture
async def secured(authority: trustme.CA) -> AsyncIterator[str]:
    """A server with TLS that demands a client certificate and says whose it got; its URL."""

    async def who(request: web.Request) -> web.Response:
        assert request.transport is not None
        names = request.transport.get_extra_info("peercert")["subjectAltName"]
        return web.json_response([value for _, value in names])

    app = web.Application()
    app.router.add_get("/who", who)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    server = TestServer(app, host="localhost")
    await server.start_server(ssl=context)
    yield str(server.make_url("")).rstrip("/")
    await server.close()


async def test_both_sides_prove_who_they_are(secured: str, tmp_path: Path) -> None:
    """With CA and client certificate from files the server is trusted, and knows us."""
    tls = ClientTls(ca_file=tmp_path / "ca.pem", cert_file=tmp_path / "client.pem", key_file=tmp_path / "client.key")
    asked = client(secured, tls)
    assert await asked.get("/who", decoded) == ["gpuheal"]
    await asked.close()


async def test_a_server_of_an_unknown_authority_is_not_believed(secured: str) -> None:
    """Without its CA the server is no source: an ObserveError, no answer taken."""
    asked = client(secured)
    with pytest.raises(ObserveError, match="CERTIFICATE_VERIFY_FAILED"):
        await asked.get("/who", decoded)
    await asked.close()


async def test_a_server_of_another_name_is_not_believed(secured: str, tmp_path: Path) -> None:
    """The certificate must carry the name we want, whatever the URL says."""
    tls = ClientTls(ca_file=tmp_path / "ca.pem", server_name="prometheus.example.com")
    asked = client(secured, tls)
    with pytest.raises(ObserveError, match=r"prometheus\.example\.com"):
        await asked.get("/who", decoded)
    await asked.close()


def test_unusable_certificates_are_a_config_error(tmp_path: Path) -> None:
    """A file that is no certificate is named at the start, not at the first request."""
    (tmp_path / "ca.pem").write_text("nonsense")
    with pytest.raises(ConfigError, match=r"ca\.pem: cannot load certificates"):
        client("https://prometheus:9090", ClientTls(ca_file=tmp_path / "ca.pem"))


async def test_an_endless_answer_is_cut_off(make_script: MakeScript, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than the most that is taken is no answer, and is not kept in memory."""
    monkeypatch.setattr(subject, "LARGEST_BODY", 1000)
    script = await make_script()
    script.answers["/x"] = b"[" + b"0," * 1000 + b"0]"
    asked = client(script.url)
    with pytest.raises(ObserveError, match="larger than 1000 bytes"):
        await asked.get("/x", decoded)
    await asked.close()


async def test_a_big_answer_is_read_like_a_small_one(make_script: MakeScript) -> None:
    """Big bodies are decoded in a thread; result and errors are the same."""
    script = await make_script()
    script.answers["/big"] = b"[" + b"0," * subject.BIG_BODY + b"0]"
    script.answers["/broken"] = b"[" + b"0," * subject.BIG_BODY
    asked = client(script.url)
    assert await asked.get("/big", decoded) == [0] * (subject.BIG_BODY + 1)
    with pytest.raises(ObserveError, match="invalid response to /broken"):
        await asked.get("/broken", decoded)
    await asked.close()


async def test_a_refusal_is_quoted_in_one_short_line(make_script: MakeScript) -> None:
    """What the server said is told, cut and without line breaks: it goes into logs and Events."""
    script = await make_script()
    script.answers["/x"] = b"line one\nline two " + b"x" * 5000
    script.statuses["/x"] = 500
    asked = client(script.url)
    with pytest.raises(ObserveError) as caught:
        await asked.get("/x", decoded)
    await asked.close()
    assert str(caught.value).startswith("prometheus: HTTP 500: line one line two xxx")
    assert len(str(caught.value)) < 400
