"""The JSON of the dashboards: up to date, whole, and within the rules that all of them keep."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import promql_parser as pp
import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from gpuheal_dashboards import cli
from gpuheal_dashboards.boards.all import boards
from gpuheal_dashboards.grafana import in_sight, render
from gpuheal_dashboards.model import COLUMNS, Board, Kind, Panel, Row, laid_out
from gpuheal_exporters.collectors.registry import metrics
from gpuheal_responder.shell.metrics import METRICS
from gpuheal_rules.catalogue.load import load_catalogue
from gpuheal_rules.lint.flow import children, matchers, metric_names, selectors
from gpuheal_rules.options import PROFILES, Options
from gpuheal_rules.promql.rule import AlertRule, Record
from gpuheal_rules.render import build_groups
from gpuheal_rules.site.read import Site

ROOT = Path(__file__).resolve().parents[2]
GENERATED = ROOT / "dashboards" / "generated"
CATALOGUE = load_catalogue()
BOARDS = boards(Options(), CATALOGUE)
PANELS = [pytest.param(board, panel, id=f"{panel.id}") for board in BOARDS for panel in board.panels]
COUNTERS_AS_THEY_ARE = {
    "gpuheal_xid_total": "how often a latched Xid came",
    "gpuheal_gpu_remapped_rows_total": "kept in the InfoROM for life",
}
"""Counters whose value says something without a rate."""
KNOWN = {
    *(rule.name for group in build_groups(CATALOGUE, Options()) for rule in group.rules if isinstance(rule, Record)),
    *(metric.name for metric in metrics()),
    *METRICS,
}
"""What the rules record, and what exporter and responder export."""
OF_SERVERS = re.compile(r"prometheus_|alertmanager_|ALERTS$|kube_|DCGM_")


def parsed(expr: str) -> pp.Expr:
    """Return the expression with Grafana's own variables in place."""
    return pp.parse(expr.replace("$__rate_interval", "1m").replace("$__range", "6h"))


def data(board: Board) -> Any:
    """Return a board's JSON as values."""
    return json.loads(render(board))


def test_the_generated_files_are_up_to_date() -> None:
    """The committed files are what a build makes now, and there is no other."""
    files = cli.artefacts(Site(catalogue=CATALOGUE, options=Options()))
    assert cli.drift(GENERATED, files) == []


def test_the_command_names_what_drifts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`check` fails for a missing, a changed and a left-over file; `build` mends the first two and tells the third."""
    out = ["--out", str(tmp_path)]
    assert cli.main(["check", *out]) == 1
    assert cli.main(["build", *out]) == 0
    assert cli.main(["check", *out]) == 0
    (tmp_path / "gpuheal-gpu.json").write_text("{}")
    (tmp_path / "old.json").write_text("{}")
    capsys.readouterr()
    assert cli.main(["check", *out]) == 1
    told = capsys.readouterr().err
    assert f"{tmp_path / 'gpuheal-gpu.json'}: out of date" in told
    assert f"{tmp_path / 'old.json'}: out of date" in told
    assert cli.main(["build", *out]) == 0
    assert "old.json is generated no more" in capsys.readouterr().err


def test_a_wrong_site_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A site file with an unknown key, and a site without --out, are wrong input."""
    site = tmp_path / "site.yaml"
    site.write_text("cluster_lable: dc\n")
    assert cli.main(["build", "--site", str(site), "--out", str(tmp_path)]) == 2
    assert "cluster_lable" in capsys.readouterr().err
    site.write_text("cluster_label: dc\n")
    assert cli.main(["build", "--site", str(site)]) == 2
    assert "--out is required" in capsys.readouterr().err


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.uid)
def test_the_sdk_reads_back_what_it_wrote(board: Board) -> None:
    """Grafana's own model knows every field and every enumerated value: read and written, the JSON is the same."""
    written = data(board)
    again = json.loads(json.dumps(Dashboard.from_json(written), cls=JSONEncoder))
    assert in_sight(again) == written
    assert "inControlsMenu" not in json.dumps(written)


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.uid)
def test_a_board_keeps_the_conventions(board: Board) -> None:
    """One data source variable, variables that follow the time, not editable, tagged, linked to its siblings."""
    written = data(board)
    assert written["uid"] == board.uid
    assert written["editable"] is False
    assert written["tags"] == ["gpuheal"]
    assert [(link["type"], link["tags"]) for link in written["links"]] == [("dashboards", ["gpuheal"])]
    first, *others = written["templating"]["list"]
    assert (first["type"], first["name"], first["label"]) == ("datasource", "datasource", "Data source")
    assert all(variable["refresh"] == 2 and variable["label"] for variable in others)
    assert all(variable["datasource"]["uid"] == "${datasource}" for variable in others)
    for panel in (one for one in written["panels"] if one["type"] != "row"):
        assert panel["datasource"]["uid"] == "${datasource}"
        assert [target["refId"] for target in panel["targets"]] == list("ABCDEFGHIJ"[: len(panel["targets"])])
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}


def test_uids_and_panel_ids_belong_to_one_thing_each() -> None:
    """Uids and the ids of panels and rows are unique across all boards, and panels of a board share their hundred."""
    assert len({board.uid for board in BOARDS}) == len({board.title for board in BOARDS}) == 5
    ids = [one.id for board in BOARDS for one in (*board.rows, *board.panels)]
    assert len(ids) == len(set(ids))
    for board in BOARDS:
        assert len({one.id // 100 for one in (*board.rows, *board.panels)}) == 1


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.uid)
def test_nothing_lies_on_anything_else(board: Board) -> None:
    """Rows and panels lie within 24 columns and never overlap."""
    places = [place for _part, place in laid_out(board)]
    assert all(place.x >= 0 and place.x + place.width <= COLUMNS and place.height > 0 for place in places)
    for one, other in combinations(places, 2):
        apart_x = one.x + one.width <= other.x or other.x + other.width <= one.x
        apart_y = one.y + one.height <= other.y or other.y + other.height <= one.y
        assert apart_x or apart_y
    assert [part for part, _place in laid_out(board) if isinstance(part, Row)] == list(board.rows)


@pytest.mark.parametrize(("board", "panel"), PANELS)
def test_a_panel_tells_what_it_shows(board: Board, panel: Panel) -> None:
    """Title, description and unit; a table has columns, any other panel with several series a name for each."""
    assert panel.title
    assert panel.description.endswith((".", "`."))
    assert panel.unit
    assert (panel.kind is Kind.TABLE) == bool(panel.columns)
    if panel.kind is Kind.TABLE:
        letters = {column.value for column in panel.columns if column.value}
        shown = set("ABCDEFGHIJ"[: len(panel.queries)])
        assert letters == shown or (not letters and len(shown) == 1)
        assert not panel.sort or panel.sort.removeprefix("-") in {column.title for column in panel.columns}
    elif len(panel.queries) > 1 or panel.kind is not Kind.STAT:
        assert all(query.legend for query in panel.queries)


@pytest.mark.parametrize(("board", "panel"), PANELS)
def test_every_series_is_there_and_of_its_source(board: Board, panel: Panel) -> None:
    """Every metric is recorded by a rule or exported by a table, and its selector names job and cluster."""
    own = {variable.name for variable in board.variables}
    for query in panel.queries:
        assert set(re.findall(r"\$(\w+)", query.expr)) <= {*own, "__range", "__rate_interval", "1", "2"}
        for selector in selectors(parsed(query.expr)):
            (name,) = metric_names(selector)
            base = re.sub(r"_(bucket|count|sum)$", "", name)
            assert {name, base} & KNOWN or OF_SERVERS.match(name), name
            found = {label: value for label, _sign, value in matchers(selector)}
            of_cluster = {"gpuheal:threshold": None, "ALERTS": "$cluster|"}.get(name, "$cluster")
            if name.startswith(("prometheus_", "alertmanager_")):
                of_cluster = None
            assert found.get("cluster") == of_cluster, query.expr
            if name.startswith("gpuheal:"):
                assert found["job"] == "", query.expr
            elif name.startswith(("gpuheal_", "kube_", "DCGM_")):
                assert found["job"], query.expr


def counters(node: pp.Expr, inside: bool = False) -> Iterator[str]:
    """Yield the counters that are read without a function of their growth."""
    if isinstance(node, pp.VectorSelector) and node.name and node.name.endswith("_total") and not inside:
        yield node.name
    grown = isinstance(node, pp.Call) and node.func.name in {"rate", "increase"}
    for child in children(node):
        yield from counters(child, inside or grown)


@pytest.mark.parametrize(("board", "panel"), PANELS)
def test_counters_are_read_by_their_growth(board: Board, panel: Panel) -> None:
    """`_total` stands in rate() or increase() only, but for two counters whose value itself is told."""
    found = {name for query in panel.queries for name in counters(parsed(query.expr))}
    assert found <= COUNTERS_AS_THEY_ARE.keys()


def links(written: Any) -> Iterator[str]:
    """Yield every address in a board's JSON."""
    if isinstance(written, dict):
        if isinstance(written.get("url"), str) and written["url"]:
            yield written["url"]
        for value in written.values():
            yield from links(value)
    elif isinstance(written, list):
        for value in written:
            yield from links(value)


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.uid)
def test_every_link_leads_somewhere(board: Board) -> None:
    """A link to a board names one that is there and sets variables that it has; any other leads to a runbook."""
    known = {other.uid: {variable.name for variable in other.variables} for other in BOARDS}
    addresses = list(links(data(board)))
    for address in addresses:
        if not address.startswith("/d/"):
            assert address == f'{Options().runbook_base}/${{__data.fields["Alert"]}}'
            continue
        uid, _, rest = address.removeprefix("/d/").partition("?")
        assert set(re.findall(r"var-(\w+)=", rest)) <= known[uid]
        assert "${datasource:queryparam}&${cluster:queryparam}" in rest
        assert rest.endswith("${__url_time_range}")
    assert addresses or board.uid == "gpuheal-pipeline"


@pytest.mark.parametrize("cluster", ["", "dc"])
def test_every_alert_leads_to_a_board(cluster: str) -> None:
    """The `dashboard_url` of each alert names a board that is there, and sets variables that it has."""
    options = Options(dashboard_base="https://grafana.example.com", cluster_label=cluster)
    known = {board.uid: {variable.name for variable in board.variables} for board in BOARDS}
    urls = {
        rule.name: rule.annotations["dashboard_url"]
        for group in build_groups(CATALOGUE, options)
        for rule in group.rules
        if isinstance(rule, AlertRule)
    }
    for url in urls.values():
        address, _, passed = url.partition("?")
        uid = address.removeprefix("https://grafana.example.com/d/")
        chosen = dict(re.findall(r"var-(\w+)=\{\{ \$labels\.(\w+) \}\}", passed))
        assert chosen.keys() - {"cluster"} == known[uid] - {"cluster"}
        assert chosen.get("cluster", "") == cluster
    assert len({url.partition("?")[0] for url in urls.values()}) == len(known)


def test_the_label_of_the_cluster_is_the_sites() -> None:
    """With `cluster_label: dc` no expression names `cluster` as a label, and groupings by node keep `dc`."""
    for board in boards(Options(cluster_label="dc"), CATALOGUE):
        for panel in board.panels:
            for query in panel.queries:
                assert not re.search(r"\bcluster(?=[=,)])", query.expr)
        (cluster,) = (variable for variable in board.variables if variable.name == "cluster")
        assert cluster.label == "dc"
    worst = next(panel for panel in boards(Options(cluster_label="dc"), CATALOGUE)[0].panels if panel.id == 121)
    assert (
        worst.queries[0].expr
        == 'max by (dc, node, gpu_uuid) (bottomk(20, gpuheal:gpu_score{job="", dc=~"$cluster"} < 0.9995))'
    )


def test_labels_of_dcgm_are_the_sites() -> None:
    """Without a target label for nodes dcgm-exporter's own is asked, and the UUID as the site's exporter spells it."""
    found = []
    for profile in ("target", "Hostname", "old-namespace"):
        board = next(b for b in boards(Options(labels=PROFILES[profile]), CATALOGUE) if b.uid == "gpuheal-gpu")
        found.append(next(panel for panel in board.panels if panel.id == 341).queries[0].expr)
    target, hostname, old = found
    assert 'node="$node", UUID="$gpu"} < 2147483632, "gpu_uuid", "$1", "UUID", "(.+)")' in target
    assert hostname == target.replace('node="$node", UUID=', 'Hostname="$node", UUID=')
    assert old == target.replace("UUID", "uuid")


def test_jobs_and_runbooks_are_the_sites() -> None:
    """A site's jobs, base of runbooks and namespace are in the expressions and links."""
    jobs = {**Options().jobs, "exporter": "gpu-exp"}
    options = Options(jobs=jobs, runbook_base="https://wiki.example.com/gpu", namespace="ml")
    text = "".join(render(board) for board in boards(options, CATALOGUE))
    assert ".*gpuheal-exporter.*" not in text
    assert 'job=~\\"gpu-exp\\"' in text
    assert "https://wiki.example.com/gpu/" in text
    assert Options().runbook_base not in text
    assert 'namespace=\\"ml\\"' in text
