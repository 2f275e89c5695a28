"""Listening with TLS: who is let in by certificate, and what happens when a certificate is renewed."""

from __future__ import annotations

import asyncio
import contextlib
import io
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
import trustme
from tests.responder.shell.scripted import StillClock, no_problem
from tests.responder.shell.standins import Crowd, Holds, Store

from gpuheal_responder.config.settings import Listen, ServerTls
from gpuheal_responder.errors import ConfigError
from gpuheal_responder.shell.http import door
from gpuheal_responder.shell.http import server as subject
from gpuheal_responder.shell.http.admission import Admission
from gpuheal_responder.shell.http.people import CaseApi
from gpuheal_responder.shell.http.webhook import Intake, Web
from gpuheal_responder.shell.telemetry import Telemetry

MESSAGE = b'{"version": "4", "alerts": []}'


def tls_files(folder: Path, authority: trustme.CA) -> ServerTls:
    """Write a server certificate and the authority; return the settings that name them."""
    made = authority.issue_cert("localhost", "127.0.0.1")
    made.private_key_pem.write_to_path(folder / "key.pem")
    (folder / "cert.pem").write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
    authority.cert_pem.write_to_path(folder / "ca.pem")
    return ServerTls(
        cert_file=folder / "cert.pem",
        key_file=folder / "key.pem",
        client_ca_file=folder / "ca.pem",
        client_names=("alertmanager",),
    )


@asynccontextmanager
async def serving(tls: ServerTls) -> AsyncIterator[str]:
    """The whole application on a free port; gives its https URL. Only client certificates authenticate."""
    telemetry, clock = Telemetry(cluster="", clock=StillClock(), audit=io.StringIO()), StillClock()
    intake = Intake(
        wake=lambda: None,
        refusing=str,
        unready=str,
        telemetry=telemetry,
        admission=Admission(Crowd()),
        client_names=frozenset(tls.client_names),
    )
    cases = CaseApi(admission=Admission(Crowd()), remediations=Store(), holds=Holds(), telemetry=telemetry, clock=clock)
    app = subject.application(Web(intake), cases)
    async with subject.listening(app, Listen(host="127.0.0.1", port=0, tls=tls), no_problem) as (host, port):
        yield f"https://{host}:{port}"


def shown(authority: trustme.CA, name: str = "", signed_by: trustme.CA | None = None) -> ssl.SSLContext:
    """A client that trusts the authority and shows a certificate of this name, if any."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    if name:
        (signed_by or authority).issue_cert(name).configure_cert(context)
    return context


async def test_s04_a_client_certificate_of_the_right_name_may_post(tmp_path: Path) -> None:
    """mTLS lets in who the authority signed and the settings name; others by that authority get 401."""
    authority = trustme.CA()
    async with serving(tls_files(tmp_path, authority)) as url, aiohttp.ClientSession() as session:
        statuses = []
        for context in (shown(authority, "alertmanager"), shown(authority, "grafana"), shown(authority)):
            async with session.post(f"{url}/webhook", data=MESSAGE, ssl=context) as answer:
                statuses.append(answer.status)
        assert statuses == [200, 401, 401]
        async with session.get(f"{url}/healthz", ssl=shown(authority)) as answer:
            assert answer.status == 200


async def test_s04_a_certificate_of_another_authority_is_refused(tmp_path: Path) -> None:
    """A stranger's certificate does not even get through the handshake."""
    authority = trustme.CA()
    context = shown(authority, "alertmanager", signed_by=trustme.CA())
    async with serving(tls_files(tmp_path, authority)) as url, aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientError):
            await session.post(f"{url}/webhook", data=MESSAGE, ssl=context)


async def test_s04_a_withdrawn_authority_lets_nobody_in_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file replaced, and nothing else: clients of the old CA are refused, also on connections they have kept open
    and with sessions they could resume; clients of the new one come in."""
    monkeypatch.setattr(subject, "LOOK_AT_CERTIFICATES_S", 0.01)
    ours, old, new = trustme.CA(), trustme.CA(), trustme.CA()
    tls = tls_files(tmp_path, ours)
    old.cert_pem.write_to_path(tmp_path / "ca.pem")
    former, coming = (shown(ours, "alertmanager", by) for by in (old, new))
    async with serving(tls) as url, aiohttp.ClientSession() as session:

        async def post(context: ssl.SSLContext) -> int:
            try:
                async with session.post(f"{url}/webhook", data=MESSAGE, ssl=context) as answer:
                    return answer.status
            except aiohttp.ClientError:
                return 0

        assert (await post(former), await post(coming)) == (200, 0)
        new.cert_pem.write_to_path(tmp_path / "ca.pem")
        for _ in range(500):
            if await post(coming) == 200:
                break
        else:
            raise AssertionError("the new authority is not believed")
        assert await post(former) == 0
        assert await post(coming) == 200


async def test_a_renewed_certificate_is_shown_without_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """New connections get the new certificate; clients that trust only the new authority come in."""
    monkeypatch.setattr(subject, "LOOK_AT_CERTIFICATES_S", 0.01)
    old, new = trustme.CA(), trustme.CA()
    async with serving(tls_files(tmp_path, old)) as url, aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await session.get(f"{url}/healthz", ssl=shown(new))
        tls_files(tmp_path, new)
        for _ in range(500):
            try:
                async with session.get(f"{url}/healthz", ssl=shown(new)) as answer:
                    assert answer.status == 200
                    return
            except aiohttp.ClientError:
                continue
        raise AssertionError("the old certificate is still shown")


def test_an_unusable_certificate_is_a_config_error(tmp_path: Path) -> None:
    """The file is named; nothing listens without the TLS it was told to have."""
    for name in ("c", "k"):
        (tmp_path / name).write_text("nonsense")
    with pytest.raises(ConfigError, match="cannot load the certificate"):
        subject.tls_context(ServerTls(cert_file=tmp_path / "c", key_file=tmp_path / "k"))


async def test_an_address_in_use_is_a_config_error(tmp_path: Path) -> None:
    """Two responders on one port: the second says so."""
    tls = tls_files(tmp_path, trustme.CA())
    async with serving(tls) as url:
        port = int(url.rsplit(":", 1)[1])
        app = aiohttp.web.Application()
        with pytest.raises(ConfigError, match="cannot listen on"):
            async with subject.listening(app, Listen(host="127.0.0.1", port=port, tls=tls), no_problem):
                pass


async def test_s03_a_silent_connection_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who sends no complete head in time is cut off; a connection that has been used stays."""
    monkeypatch.setattr(door, "ASK_DEADLINE_S", 0.3)
    authority = trustme.CA()
    context = shown(authority)
    async with serving(tls_files(tmp_path, authority)) as url:
        port = int(url.rsplit(":", 1)[1])
        silent, used = [await asyncio.open_connection("127.0.0.1", port, ssl=context) for _ in range(2)]
        silent[1].write(b"POST /webhook HTTP/1.1\r\nHost: x\r\n")
        used[1].write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert await silent[0].read() == b""
        await used[0].readuntil(b"ok\n")
        used[1].write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200 OK" in await used[0].readuntil(b"ok\n")
        for _, writer in (silent, used):
            writer.close()
