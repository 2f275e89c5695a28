"""Boards as Grafana's JSON (schema 42, which every Grafana since 10 imports). Needs grafana-foundation-sdk.

Whatever is optional in Grafana and would change from one build to the next (ids, reference letters) is set.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    dashboard,
    prometheus,
    stat,
    statetimeline,
    table,
    timeseries,
)
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models import prometheus as prometheus_models

from gpuheal_dashboards.model import (
    TAG,
    Board,
    Column,
    Kind,
    Link,
    Mark,
    Panel,
    Place,
    Query,
    Row,
    Shade,
    Variable,
    laid_out,
)

SOURCE = common_models.DataSourceRef(type_val="prometheus", uid="${datasource}")
PASSED = "${datasource:queryparam}&${cluster:queryparam}"
"""Every link goes on with the same data source and clusters."""
HIDDEN = ("placement", "inControlsMenu")
LETTERS = "ABCDEFGHIJ"
Builder = timeseries.Panel | stat.Panel | statetimeline.Panel | table.Panel | bargauge.Panel


def render(board: Board) -> str:
    """Return the board's JSON, the same for the same board."""
    built = dashboard.Dashboard(board.title).uid(board.uid).description(board.description).tags([TAG])
    built = built.readonly().refresh(board.refresh).time(board.since, "now").timezone("browser")
    built = built.tooltip(models.DashboardCursorSync.CROSSHAIR).variables(
        [_datasource(), *map(_variable, board.variables)]
    )
    built = built.annotations([_annotation(mark) for mark in board.marks]).links([_siblings()])
    for part, place in laid_out(board):
        if isinstance(part, Row):
            built = built.with_row(dashboard.Row(part.title).id(part.id).grid_pos(_grid(place)))
        else:
            built = built.with_panel(_panel(part).grid_pos(_grid(place)))
    data = in_sight(json.loads(json.dumps(built.build(), cls=JSONEncoder)))
    return json.dumps(data, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def in_sight(data: Any) -> Any:
    """Return the JSON without the SDK's default that hides links and annotations in a menu."""
    if isinstance(data, dict):
        return {name: in_sight(value) for name, value in data.items() if (name, value) != HIDDEN}
    return [in_sight(one) for one in data] if isinstance(data, list) else data


def _grid(place: Place) -> models.GridPos:
    return models.GridPos(h=place.height, w=place.width, x=place.x, y=place.y)


def _datasource() -> dashboard.DatasourceVariable:
    return dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus")


def _variable(variable: Variable) -> dashboard.QueryVariable:
    asked = f"label_values({variable.metric}, {variable.label})"
    query: dict[str, object] = {"query": asked, "refId": f"variable-{variable.name}"}
    built = dashboard.QueryVariable(variable.name).label(variable.title).description(variable.description)
    built = built.datasource(SOURCE).query(query).definition(asked).multi(variable.many).include_all(variable.many)
    built = built.refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
    built = built.sort(models.VariableSort.NATURAL_ASC)
    if variable.many:
        everything = models.VariableOption(selected=True, text=["All"], value=["$__all"])
        # What has no such label matches too.
        built = built.all_value(".*").current(everything)
    return built


def _annotation(mark: Mark) -> dashboard.AnnotationQuery:
    built = dashboard.AnnotationQuery().name(mark.name).datasource(SOURCE).enable(True).icon_color(mark.color)
    return built.expr(mark.expr).title_format(mark.title).text_format(mark.text).step("60s")


def _siblings() -> dashboard.DashboardLink:
    built = dashboard.DashboardLink("gpuheal").type(models.DashboardLinkType.DASHBOARDS).tags([TAG])
    return built.include_vars(True).keep_time(True).as_dropdown(False)


def _panel(panel: Panel) -> Builder:
    built: Builder = _SHOWN[panel.kind](panel)
    built = built.id(panel.id).title(panel.title).description(panel.description).datasource(SOURCE)
    built = built.unit(panel.unit).no_value(panel.nothing)
    for letter, query in zip(LETTERS, panel.queries, strict=False):
        built = built.with_target(_target(panel, letter, query))
    if panel.decimals is not None:
        built = built.decimals(panel.decimals)
    if panel.lowest is not None:
        built = built.min(panel.lowest)
    if panel.highest is not None:
        built = built.max(panel.highest)
    if panel.texts:
        built = built.mappings(_mappings(panel.texts))
    if panel.steps:
        built = built.thresholds(_thresholds(panel.steps))
        built = built.color_scheme(dashboard.FieldColor().mode(models.FieldColorModeId.THRESHOLDS))
    if panel.link:
        built = built.data_links([_link(panel.link, "label")])
    for name, shade in panel.colors.items():
        built = built.override_by_name(name, list(_shaded(shade)))
    if not panel.kind.instant:
        built = built.interval(panel.min_step).max_data_points(panel.points)
    return built


def _target(panel: Panel, letter: str, query: Query) -> prometheus.Dataquery:
    built = prometheus.Dataquery().ref_id(letter).expr(query.expr).datasource(SOURCE)
    built = built.legend_format(query.legend or "__auto").editor_mode(prometheus_models.QueryEditorMode.CODE)
    built = built.instant() if panel.kind.instant else built.range()
    form = prometheus_models.PromQueryFormat
    return built.format(form.TABLE if panel.kind is Kind.TABLE else form.TIME_SERIES)


def _stat(panel: Panel) -> Builder:
    mode = common_models.BigValueTextMode.NAME if panel.named else common_models.BigValueTextMode.AUTO
    built = stat.Panel().text_mode(mode).reduce_options(_last()).graph_mode(common_models.BigValueGraphMode.NONE)
    return built.color_mode(common_models.BigValueColorMode.BACKGROUND)


def _bars(_panel: Panel) -> Builder:
    built = bargauge.Panel().reduce_options(_last()).orientation(common_models.VizOrientation.HORIZONTAL)
    return built.display_mode(common_models.BarGaugeDisplayMode.BASIC)


def _graph(panel: Panel) -> Builder:
    built = timeseries.Panel().line_width(1).fill_opacity(60 if panel.stacked else 8).legend(_legend())
    built = built.show_points(common_models.VisibilityMode.NEVER)
    built = built.tooltip(common.VizTooltipOptions().mode(common_models.TooltipDisplayMode.MULTI))
    if panel.stacked:
        built = built.stacking(common.StackingConfig().mode(common_models.StackingMode.NORMAL).group("A"))
    if panel.dashed:
        dashes = {"id": "custom.lineStyle", "value": {"fill": "dash", "dash": [8, 8]}}
        properties = [models.DynamicConfigValue(id_val=str(dashes["id"]), value=dashes["value"])]
        properties.append(models.DynamicConfigValue(id_val="custom.fillOpacity", value=0))
        built = built.override_by_regexp(f"/^{panel.dashed}$/", properties)
    return built


def _states(_panel: Panel) -> Builder:
    built = statetimeline.Panel().merge_values(True).show_value(common_models.VisibilityMode.AUTO).row_height(0.8)
    return built.legend(_legend()).fill_opacity(80)


def _table(panel: Panel) -> Builder:
    built = table.Panel().show_header(True)
    values = {column.value: column for column in panel.columns if column.value}
    fields = [_field(panel, column) for column in panel.columns]
    if len(panel.queries) > 1:
        built = built.with_transformation(models.DataTransformerConfig(id_val="merge", options={}))
    hidden = {f"Value #{letter}" for letter in LETTERS[: len(panel.queries)]} if len(panel.queries) > 1 else {"Value"}
    organised = {
        "indexByName": {name: index for index, name in enumerate(fields)},
        "renameByName": {name: column.title for name, column in zip(fields, panel.columns, strict=True)}
        | {"cluster": "Cluster"},
        "excludeByName": dict.fromkeys(sorted({"Time", *(hidden - set(fields))}), True),
    }
    assert values or len(panel.queries) == 1
    built = built.with_transformation(models.DataTransformerConfig(id_val="organize", options=organised))
    for column in panel.columns:
        properties = list(_column(column))
        if properties:
            built = built.override_by_name(column.title, properties)
    if panel.sort:
        sort = (
            common.TableSortByFieldState()
            .display_name(panel.sort.removeprefix("-"))
            .desc(not panel.sort.startswith("-"))
        )
        built = built.sort_by([sort])
    return built


def _field(panel: Panel, column: Column) -> str:
    """Return the name that Grafana gives the field of a column."""
    if column.label:
        return column.label
    return "Value" if len(panel.queries) == 1 else f"Value #{column.value}"


def _column(column: Column) -> Iterator[models.DynamicConfigValue]:
    def set_to(name: str, value: object) -> models.DynamicConfigValue:
        return models.DynamicConfigValue(id_val=name, value=value)

    if column.unit:
        yield set_to("unit", column.unit)
    if column.decimals is not None:
        yield set_to("decimals", column.decimals)
    if column.width:
        yield set_to("custom.width", column.width)
    if column.texts:
        yield set_to("mappings", _mappings(column.texts))
    if column.steps:
        yield set_to("thresholds", _thresholds(column.steps).build())
    if column.gauge:
        yield set_to("min", 0)
        yield set_to("max", 1)
        yield set_to("custom.cellOptions", {"type": "gauge", "mode": "basic"})
    elif any(shade.color for shade in column.texts.values()):
        yield set_to("custom.cellOptions", {"type": "color-background", "mode": "basic"})
    elif column.steps:
        yield set_to("custom.cellOptions", {"type": "color-text"})
    if column.link:
        yield set_to("links", [_link(column.link, "field").build()])


def _link(link: Link, of: str) -> dashboard.DashboardLink:
    """Return the link; what it passes on are fields of a table's row, or labels of a series."""

    def here(name: str) -> str:
        return f'${{__data.fields["{name}"]}}' if of == "field" else f"${{__field.labels.{name}}}"

    if link.runbook:
        return (
            dashboard.DashboardLink(link.title)
            .url(re.sub(r"\{(\w+)\}", lambda m: here(m[1]), link.runbook))
            .target_blank(True)
        )
    passed = "".join(f"&var-{quote(name)}={here(value)}" for name, value in link.passes.items())
    return dashboard.DashboardLink(link.title).url(f"/d/{link.uid}?{PASSED}{passed}&${{__url_time_range}}")


def _mappings(texts: Mapping[str, Shade]) -> list[models.ValueMapping]:
    options = {
        value: models.ValueMappingResult(text=shade.text or None, color=shade.color or None, index=index)
        for index, (value, shade) in enumerate(texts.items())
    }
    return [models.ValueMap(options=options)]


def _thresholds(steps: Sequence[tuple[float | None, str]]) -> dashboard.ThresholdsConfig:
    built = dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE)
    return built.steps([models.Threshold(value=value, color=color) for value, color in steps])


def _shaded(shade: Shade) -> Iterator[models.DynamicConfigValue]:
    if shade.color:
        yield models.DynamicConfigValue(id_val="color", value={"mode": "fixed", "fixedColor": shade.color})
    if shade.text:
        yield models.DynamicConfigValue(id_val="displayName", value=shade.text)


def _last() -> common.ReduceDataOptions:
    return common.ReduceDataOptions().calcs(["lastNotNull"]).values(False)


def _legend() -> common.VizLegendOptions:
    built = common.VizLegendOptions().show_legend(True).display_mode(common_models.LegendDisplayMode.LIST)
    return built.placement(common_models.LegendPlacement.BOTTOM)


_SHOWN: Mapping[Kind, Callable[[Panel], Builder]] = {
    Kind.STAT: _stat,
    Kind.BARS: _bars,
    Kind.GRAPH: _graph,
    Kind.STATES: _states,
    Kind.TABLE: _table,
}
