"""The preview: bounds of what is asked and written, plain words for wrong input, nothing that leaves the page."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from gpuheal_dashboards.boards.all import boards
from gpuheal_dashboards.cli import main
from gpuheal_dashboards.model import Column, Kind, Panel, Query
from gpuheal_dashboards.preview import prometheus as asked
from gpuheal_dashboards.preview.data import MOST_ROWS, MOST_SERIES, Scope, Shown, ask, named
from gpuheal_dashboards.preview.page import Page
from gpuheal_dashboards.preview.prometheus import Prometheus, QueryError
from gpuheal_rules.catalogue.load import load_catalogue
from gpuheal_rules.options import Options

BOARD = boards(Options(), load_catalogue())[0]
GRAPH = Panel(
    id=1, kind=Kind.GRAPH, title="t", description="d.", queries=[Query(expr="x", legend="{{n}}")], min_step="15s"
)
SCOPE = Scope(start=0, end=600, values={"cluster": ".*", "node": "n", "gpu": "g"})
Answer = Callable[[BaseHTTPRequestHandler], None]


@contextmanager
def answering(answer: Answer) -> Iterator[str]:
    """Serve one answer to everything on loopback; yields the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            answer(self)

        def do_GET(self) -> None:
            answer(self)

        def log_message(self, *_args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()


def said(body: bytes, status: int = 200) -> Answer:
    """An answer with this body."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    return answer


def vector(count: int, kind: str = "matrix") -> bytes:
    """An answer of so many series."""
    point = {"values": [[0, "1"]]} if kind == "matrix" else {"value": [0, "1"]}
    rows = [{"metric": {"n": f"{number:05}"}, **point} for number in range(count)]
    return json.dumps({"status": "success", "data": {"resultType": kind, "result": rows}}).encode()


def test_what_is_drawn_is_bounded_and_what_there_is_is_told() -> None:
    """Of 1000 series 40 are drawn, of 1000 rows 100 are shown, and the number of all is kept."""
    with answering(said(vector(1000))) as url:
        shown = ask(GRAPH, Prometheus(url=url), SCOPE)
    assert (len(shown.lines), shown.found) == (MOST_SERIES, 1000)
    table = Panel(
        id=2,
        kind=Kind.TABLE,
        title="t",
        description="d.",
        queries=[Query(expr="x")],
        columns=[Column(title="N", label="n"), Column(title="V", value="A")],
    )
    with answering(said(vector(1000, "vector"))) as url:
        shown = ask(table, Prometheus(url=url), SCOPE)
    assert (len(shown.rows), shown.found) == (MOST_ROWS, 1000)


def test_a_token_goes_to_nobody_else() -> None:
    """A redirect is an answer that is told, not one that is followed with our token."""
    got: list[str | None] = []

    def elsewhere(request: BaseHTTPRequestHandler) -> None:
        got.append(request.headers["Authorization"])
        said(vector(1))(request)

    with answering(elsewhere) as other:

        def away(request: BaseHTTPRequestHandler) -> None:
            request.send_response(302)
            request.send_header("Location", f"{other}{request.path}")
            request.send_header("Content-Length", "0")
            request.end_headers()

        with answering(away) as url:
            prometheus = Prometheus(url=url, headers={"Authorization": "Bearer secret"})
            assert "HTTP 302" in ask(GRAPH, prometheus, SCOPE).problem
            with pytest.raises(QueryError, match="HTTP 302"):
                prometheus.values("node", "up", 0, 1)
    assert got == []


def test_an_answer_has_a_size_and_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is too large, one that trickles, and one that never comes end as a problem of their panel."""
    monkeypatch.setattr(asked, "MOST_BYTES", 10_000)
    with answering(said(vector(1000))) as url:
        assert "larger than" in ask(GRAPH, Prometheus(url=url), SCOPE).problem
    monkeypatch.setattr(asked, "GRACE_S", 0.1)

    def trickle(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", "1000")
        request.end_headers()
        try:
            for _ in range(100):
                request.wfile.write(b" ")
                request.wfile.flush()
                time.sleep(0.02)
        except OSError:
            pass

    with answering(trickle) as url:
        assert "did not end in time" in ask(GRAPH, Prometheus(url=url, timeout_s=0.2), SCOPE).problem
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert "no answer within" in ask(GRAPH, Prometheus(url=url, timeout_s=0.1), SCOPE).problem
    spent = Prometheus(url="http://127.0.0.1:9", deadline=time.monotonic() - 1)
    assert "used up" in ask(GRAPH, spent, SCOPE).problem


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (said(b"<html>login</html>"), "not that of a Prometheus"),
        (said(b"[]"), "not that of a Prometheus"),
        (said(b'{"status":"error","error":"too many samples"}', 422), "HTTP 422: too many samples"),
        (said(b"go away", 403), "HTTP 403: Forbidden"),
    ],
)
def test_a_wrong_answer_is_told_in_the_panels_place(answer: Answer, problem: str) -> None:
    """What is no answer, and what is refused, is told with the server's own words."""
    with answering(answer) as url:
        assert problem in ask(GRAPH, Prometheus(url=url), SCOPE).problem
    with pytest.raises(QueryError, match="no connection"):
        Prometheus(url="http://127.0.0.1:9").instant("up", 0)


def test_the_page_has_a_size() -> None:
    """Panels that would make the page too large are left out, which is told in their place."""
    with answering(said(vector(30))) as url:
        shown = ask(GRAPH, Prometheus(url=url), SCOPE)
    page = Page({"values": {}}, limit=140_000)
    page.board(BOARD, [])
    page.row("r")
    for _ in range(100):
        page.add(GRAPH, shown)
    assert 0 < page.left_out < 100
    assert "left out: the page would become too large" in page.html()
    assert len(page.html()) < 140_000 + 100 * 500


def test_nothing_in_the_data_becomes_part_of_the_page() -> None:
    """Markup in a label stays text, and the page may load nothing, from anywhere."""
    evil = "</script><script>alert(1)</script><!--"
    page = Page({"values": {"node": evil}})
    page.board(BOARD, [(1.0, evil, "#ffffff")])
    page.row(evil)
    page.add(GRAPH, Shown(problem=evil))
    html = page.html()
    assert evil not in html
    assert html.count("</script>") == 2
    assert "default-src 'none'" in html
    assert "src=" not in html
    assert "@import" not in html


def test_names_of_series_are_those_of_grafana() -> None:
    """A label that is not there is empty, and ends of blanks are cut."""
    assert named("{{ a }} of {{b}}", {"a": "x"}) == "x of"


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        (["--prometheus", "prometheus:9090"], "is no URL such as"),
        (["--prometheus", "http://u:p@h"], "use --token-file"),
        (["--prometheus", "file:///etc/passwd"], "is no URL such as"),
        (["--range", "6"], "expected a duration such as"),
        (["--range", "1000d"], "is not between"),
        (["--range", "0s"], "is not between"),
        (["--timeout", "1h"], "is not between"),
        (["--end", "yesterday"], "is no time such as"),
    ],
)
def test_a_wrong_argument_is_named(args: list[str], problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each is refused before anything is asked, in a line that says what would do."""
    given = {"--prometheus": "http://127.0.0.1:9", "--out": "x.html", **dict([args])}
    with pytest.raises(SystemExit) as end:
        main(["preview", *(word for pair in given.items() for word in pair)])
    assert end.value.code == 2
    assert problem in capsys.readouterr().err


def test_what_cannot_be_done_is_told_and_leaves_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No Prometheus, one without gpuheal, an unusable token, a folder that is not there: each has its own words."""
    out = tmp_path / "page.html"
    where = ["--out", str(out)]
    assert main(["preview", "--prometheus", "http://127.0.0.1:9", *where]) == 1
    assert "no connection" in capsys.readouterr().err
    with answering(said(vector(0, "vector"))) as url:
        assert main(["preview", "--prometheus", url, *where]) == 1
    assert "are gpuheal's rules loaded" in capsys.readouterr().err
    for path in (tmp_path, tmp_path / "none" / "x.html"):
        assert main(["preview", "--prometheus", "http://127.0.0.1:9", "--out", str(path)]) == 2
        assert f"--out: {path}: is a folder, or in none" in capsys.readouterr().err
    token = tmp_path / "token"
    token.write_text("t")
    assert main(["preview", "--prometheus", "http://127.0.0.1:9", *where, "--token-file", str(token)]) == 2
    assert "not sent over http" in capsys.readouterr().err
    token.write_text(" ")
    assert main(["preview", "--prometheus", "https://127.0.0.1:9", *where, "--token-file", str(token)]) == 2
    assert f"{token}: holds no token" in capsys.readouterr().err
    token.unlink()
    assert main(["preview", "--prometheus", "https://127.0.0.1:9", *where, "--token-file", str(token)]) == 1
    assert f"{token}: No such file" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
