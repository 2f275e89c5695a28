"""Rules that cannot change what a promtool test asks for are left out of its run, and only those."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from gpuheal_rules.promql.promtool import run_tests
from gpuheal_rules.promql.slices import Rules, sliced

GROUPS = [
    {
        "name": "a",
        "rules": [
            {"record": "gpuheal:raw", "expr": "up", "labels": {"fault": "lost"}},
            {"record": "gpuheal:raw", "expr": "down", "labels": {"fault": "hot"}},
            {"record": "gpuheal:lost", "expr": 'gpuheal:raw{fault="lost"}'},
            {"record": "gpuheal:text", "expr": "text"},
        ],
    },
    {
        "name": "b",
        "rules": [
            {"alert": "Lost", "expr": "gpuheal:lost > 0", "labels": {"severity": "critical"}},
            {"alert": "Hot", "expr": "hot", "annotations": {"summary": '{{ with query "gpuheal:text" }}{{ end }}'}},
            {"alert": "Burst", "expr": 'count(ALERTS{severity="critical"}) > 2', "labels": {"where": "{{ $value }}"}},
        ],
    },
]


@pytest.mark.parametrize(
    ("test", "places"),
    [
        ({"alert_rule_test": [{"alertname": "Lost"}]}, {0, 2, 4}),
        ({"alert_rule_test": [{"alertname": "Hot"}]}, {3, 5}),
        ({"promql_expr_test": [{"expr": "gpuheal:raw"}]}, {0, 1}),
        ({"promql_expr_test": [{"expr": 'gpuheal:raw{fault!="lost"} or other'}]}, {1}),
        ({"promql_expr_test": [{"expr": 'ALERTS{alertname="Hot", alertstate="firing"}'}]}, {3, 5}),
        ({"promql_expr_test": [{"expr": 'ALERTS_FOR_STATE{alertname=~"B.*"}'}]}, {0, 2, 4, 5, 6, 3}),
        ({"promql_expr_test": [{"expr": 'ALERTS{where="rack"}'}]}, {0, 2, 3, 4, 5, 6}),
        ({"promql_expr_test": [{"expr": '{__name__=~"gpuheal:.*"}'}]}, {0, 1, 2, 3, 4, 5, 6}),
        ({"alert_rule_test": [{"alertname": "Gone"}]}, set()),
    ],
)
def test_what_is_asked_and_all_that_it_reads_is_needed(test: dict[str, object], places: set[int]) -> None:
    """Names, static labels, ALERTS and the queries of annotations are followed; a templated label may be anything."""
    assert Rules(GROUPS).needed(test) == places


def test_a_cut_file_still_fails_where_the_whole_fails(promtool: str, tmp_path: Path) -> None:
    """A wrong expectation is noticed in whichever part it comes to lie."""
    (tmp_path / "some.rules.yaml").write_text(yaml.safe_dump({"groups": GROUPS}))
    empty = {"eval_time": "1m", "exp_samples": []}
    one = [{"labels": "{}", "value": 1}]

    def said(expr: str, wanted: list[dict[str, object]], *, whole: bool) -> str:
        tests = [
            {
                "input_series": [{"series": "up", "values": "1x9"}],
                "promql_expr_test": [{**empty, "expr": "gpuheal:text"}],
            },
            {
                "input_series": [{"series": "up", "values": "1x9"}],
                "promql_expr_test": [{**empty, "expr": expr, "exp_samples": wanted}],
            },
        ]
        file = tmp_path / "some.test.yaml"
        file.write_text(yaml.safe_dump({"rule_files": ["some.rules.yaml"], "tests": tests}))
        if not whole:
            assert len(sliced(file, tmp_path)) == 2
        return run_tests(promtool, [file], whole=whole)

    for whole in (False, True):
        assert said("count(gpuheal:lost)", one, whole=whole) == ""
        assert "count(gpuheal:lost)" in said("count(gpuheal:lost)", [], whole=whole)
        assert said("count(gpuheal:lost > 1)", [], whole=whole) == ""


@pytest.mark.parametrize(
    ("expr", "yields"),
    [
        ("here", True),
        ("gone", False),
        ('here{job="a"}', True),
        ('here{job="b"}', False),
        ('here{job!~"a|b"}', False),
        ('here{other=""}', True),
        ("rate(here[5m])", True),
        ("rate(gone[5m])", False),
        ("max_over_time((here > 1)[1h:1m])", True),
        ("max_over_time((gone > 1)[1h:1m])", False),
        ("here and on (node) gone", False),
        ("here unless gone", True),
        ("gone unless here", False),
        ("gone or here", True),
        ("gone or other", False),
        ("here > scalar(gone)", True),
        ("gone > 2", False),
        ("-gone", False),
        ("2 > bool 1", True),
        ("count(gone)", False),
        ("count by (node) (here)", True),
        ("absent(here)", True),
        ("absent_over_time(gone[5m])", True),
        ("vector(1)", True),
        ("time() - gone", False),
        ("label_replace(gone, 'a', '$1', 'b', '(.*)')", False),
        ("made", True),
        ("made_of_made", True),
        ('made{fault="hot"}', False),
        ("made_of_gone", False),
        ('ALERTS{alertname="Made"}', True),
        ('ALERTS{alertname="Gone"}', False),
        ('{job="x"}', True),
    ],
)
def test_what_finds_no_series_has_no_result(expr: str, yields: bool) -> None:
    """Only what certainly has no result is left out; rules that make each other's series are followed."""
    made = [
        {"alert": "Asked", "expr": expr},
        {"record": "made_of_made", "expr": "sum(made)"},
        {"record": "made_of_gone", "expr": "sum(gone)"},
        {"record": "made", "expr": "here * 2", "labels": {"fault": "lost"}},
        {"alert": "Made", "expr": "made_of_made > 1"},
        {"alert": "Gone", "expr": "made_of_gone > 1"},
    ]
    test = {"input_series": [{"series": 'here{job="a"}', "values": "1x9"}]}
    assert (0 in Rules([{"name": "a", "rules": made}]).alive(test)) is yields


def test_a_file_that_needs_nearly_all_rules_is_left_as_it_is(tmp_path: Path) -> None:
    """No copy is written for a few rules less."""
    (tmp_path / "some.rules.yaml").write_text(yaml.safe_dump({"groups": GROUPS}))
    file = tmp_path / "some.test.yaml"
    asked = [{"eval_time": "1m", "expr": '{__name__=~".+"}'}]
    series = [{"series": f"{name}", "values": "1x9"} for name in ("up", "down", "text", "hot")]
    file.write_text(
        yaml.safe_dump(
            {"rule_files": ["some.rules.yaml"], "tests": [{"input_series": series, "promql_expr_test": asked}]}
        )
    )
    parts = tmp_path / "parts"
    parts.mkdir()
    assert sliced(file, parts) == [file]
    assert list(parts.iterdir()) == []
