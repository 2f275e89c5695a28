"""`gpuheal dashboards preview`: ask a Prometheus for every panel, and write the page."""

from __future__ import annotations

import argparse
import os
import ssl
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from gpuheal_dashboards.boards.all import boards
from gpuheal_dashboards.model import Board
from gpuheal_dashboards.preview.data import Scope, ask, marks
from gpuheal_dashboards.preview.page import Page
from gpuheal_dashboards.preview.prometheus import PreviewError, Prometheus
from gpuheal_dashboards.selectors import for_site
from gpuheal_responder.core.duration import parse_duration, people_duration
from gpuheal_rules.catalogue.load import load_catalogue
from gpuheal_rules.errors import ConfigError
from gpuheal_rules.options import Options
from gpuheal_rules.site.read import Site, read_site

LONGEST_RANGE = timedelta(days=90)
LONGEST_TIMEOUT, LONGEST_DEADLINE = timedelta(minutes=5), timedelta(hours=1)
MOST_TOKEN_BYTES = 64 * 1024


def main(argv: Sequence[str]) -> int:
    """Write the page and return 0; 1 if Prometheus has nothing to show or does not answer, 2 for wrong input."""
    args = _parser().parse_args(list(argv))
    try:
        if not args.out.parent.is_dir() or args.out.is_dir():
            raise ValueError(f"--out: {args.out}: is a folder, or in none")
        site = read_site(args.site) if args.site else Site(catalogue=load_catalogue(), options=Options())
        prometheus = _prometheus(args)
        end = args.end if args.end is not None else time.time()
        scrape = site.options.scrape_interval.total_seconds()
        scope = _scope(args, prometheus, site.options, end - args.range, end, scrape)
        written = boards(site.options, site.catalogue)
        page, failed = _collect(written, prometheus, scope, args.prometheus)
        _write(args.out, page.html())
    except (ConfigError, ValueError) as problem:
        for line in str(problem).splitlines():
            print(f"gpuheal dashboards: {line}", file=sys.stderr)
        return 2
    except PreviewError as problem:
        print(f"gpuheal dashboards: {args.prometheus}: {problem}", file=sys.stderr)
        return 1
    except OSError as problem:
        print(f"gpuheal dashboards: {problem.filename or args.out}: {problem.strerror}", file=sys.stderr)
        return 1
    count = sum(1 for board in written for _panel in board.panels)
    told = f"{args.out}: {count} panels"
    told += f", {failed} without an answer" if failed else ""
    told += f", {page.left_out} left out for their size" if page.left_out else ""
    print(told)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gpuheal dashboards preview",
        description="Draw all dashboards from a Prometheus as one HTML page that needs neither Grafana nor a network.",
    )
    parser.add_argument("--prometheus", required=True, type=_address, metavar="URL", help="base URL of its API")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="the page")
    parser.add_argument("--range", type=_span(LONGEST_RANGE), default=6 * 3600, help="how far back (default: 6h)")
    parser.add_argument("--end", type=_moment, help="end of the range, as 2026-05-01T12:00:00Z (default: now)")
    parser.add_argument("--cluster", default=".*", metavar="REGEX", help="clusters to show (default: all)")
    parser.add_argument("--node", help="node to show (default: the one with the lowest score)")
    parser.add_argument("--gpu", help="UUID of the GPU to show (default: the one with the lowest score on the node)")
    parser.add_argument("--site", type=Path, metavar="FILE", help="site file of the rules: jobs, labels, runbooks")
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="bearer token for Prometheus; https only")
    parser.add_argument("--ca-file", type=Path, metavar="FILE", help="authorities that sign the certificate")
    parser.add_argument(
        "--timeout", type=_span(LONGEST_TIMEOUT), default=20, help="longest time of one query (default: 20s)"
    )
    parser.add_argument(
        "--deadline", type=_span(LONGEST_DEADLINE), default=300, help="longest time of all queries (default: 5m)"
    )
    return parser


def _span(longest: timedelta) -> Callable[[str], float]:
    def read(text: str) -> float:
        try:
            span = parse_duration(text)
        except ValueError as problem:
            raise argparse.ArgumentTypeError(str(problem)) from None
        if not timedelta(seconds=1) <= span <= longest:
            raise argparse.ArgumentTypeError(f"{text!r} is not between 1s and {people_duration(longest)}")
        return span.total_seconds()

    return read


def _moment(text: str) -> float:
    try:
        read = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no time such as 2026-05-01T12:00:00Z") from None
    return (read if read.tzinfo else read.replace(tzinfo=UTC)).timestamp()


def _address(text: str) -> str:
    try:
        parts = urllib.parse.urlsplit(text)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or parts.query or parts.fragment:
        raise argparse.ArgumentTypeError(f"{text!r} is no URL such as http://prometheus:9090")
    if parts.username or parts.password:
        raise argparse.ArgumentTypeError("the URL holds a password; use --token-file")
    return text


def _prometheus(args: argparse.Namespace) -> Prometheus:
    headers: dict[str, str] = {}
    secure = args.prometheus.startswith("https:")
    if args.token_file:
        if not secure:
            raise ValueError("--token-file: a token is not sent over http; use https")
        with args.token_file.open("rb") as file:
            token = file.read(MOST_TOKEN_BYTES).strip()
        if not token or not token.isascii() or any(byte < 33 for byte in token):
            raise ValueError(f"{args.token_file}: holds no token")
        headers["Authorization"] = f"Bearer {token.decode('ascii')}"
    try:
        context = ssl.create_default_context(cafile=args.ca_file) if secure else None
    except ssl.SSLError:
        raise ValueError(f"{args.ca_file}: holds no certificates") from None
    deadline = time.monotonic() + args.deadline
    return Prometheus(url=args.prometheus, timeout_s=args.timeout, deadline=deadline, headers=headers, context=context)


def _scope(
    args: argparse.Namespace, prometheus: Prometheus, options: Options, start: float, end: float, scrape: float
) -> Scope:
    """Return the range and the variables; node and GPU that are not given are the worst."""

    def scope(**values: str) -> Scope:
        return Scope(start=start, end=end, values={"cluster": args.cluster, **values}, scrape_s=scrape)

    def worst(where: str, node: str = "") -> Mapping[str, str]:
        asked = f"bottomk(1, gpuheal:gpu_score{where}) or bottomk(1, gpuheal:gpu_state{where})"
        expr = scope(node=node).expand(for_site(asked, options), scrape)
        found = prometheus.instant(expr, end)
        return found[0].labels if found else {}

    node = args.node or worst("").get("node")
    if not node:
        raise PreviewError(
            "no GPU is known there at the end of the range; are gpuheal's rules loaded, and is --cluster right?"
        )
    gpu = args.gpu or worst('{node="$node"}', node).get("gpu_uuid")
    if not gpu:
        raise PreviewError(f"no GPU is known on node {node!r} at the end of the range")
    return scope(node=node, gpu=gpu)


def _collect(written: Sequence[Board], prometheus: Prometheus, scope: Scope, address: str) -> tuple[Page, int]:
    head = {"prometheus": address, "start": scope.start, "end": scope.end, "values": dict(scope.values)}
    page, failed = Page(head), 0
    for board in written:
        page.board(board, marks(board, prometheus, scope))
        for row in board.rows:
            page.row(row.title)
            for panel in row.panels:
                shown = ask(panel, prometheus, scope)
                failed += bool(shown.problem)
                page.add(panel, shown)
    return page, failed


def _write(path: Path, text: str) -> None:
    """Write the page whole or not at all."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
