"""The committed files are what the catalogue makes."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
import yaml

from gpuheal_rules import build
from gpuheal_rules.catalogue.model import Catalogue
from gpuheal_rules.cli import main
from gpuheal_rules.options import Options, from_arguments
from gpuheal_rules.promql.rule import Group
from gpuheal_rules.render import build_groups, group_data, prometheus_rules, to_yaml

RULES = Path(__file__).resolve().parents[2] / "rules"


def test_the_committed_files_equal_a_fresh_build_byte_by_byte(tmp_path: Path) -> None:
    """`gpuheal rules build` into an empty folder makes exactly the committed generated files."""
    build.write(tmp_path, build.artefacts())
    fresh = {p.relative_to(tmp_path).as_posix(): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    owned = [p for top in build.OWNED for p in (RULES / top).rglob("*") if p.is_file()]
    committed = {p.relative_to(RULES).as_posix(): p.read_bytes() for p in (*owned, RULES / "KNOBS.md")}
    assert fresh == committed


def test_a_second_build_changes_nothing_and_check_agrees(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Building twice writes once; `check` passes on the result and names a file that was touched."""
    assert main(["build", "--out", str(tmp_path)]) == 0
    capsys.readouterr()
    assert main(["build", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out == ""
    assert main(["check", "--out", str(tmp_path)]) == 0
    touched = tmp_path / "generated" / "gpuheal.rules.yaml"
    touched.write_text(touched.read_text() + "#\n")
    assert main(["check", "--out", str(tmp_path)]) == 1
    assert str(touched) in capsys.readouterr().err


def test_a_generated_file_that_nothing_makes_is_drift_and_foreign_files_survive(tmp_path: Path) -> None:
    """A stale generated file is removed by a build; a file that gpuheal did not make is reported, never removed."""
    found = build.artefacts()
    build.write(tmp_path, found)
    stale, foreign = tmp_path / "promtool" / "Gone.test.yaml", tmp_path / "generated" / "site.yaml"
    stale.write_text(f"# {build.MARK}\n")
    foreign.write_text("mine\n")
    assert build.drift(tmp_path, found) == ["generated/site.yaml", "promtool/Gone.test.yaml"]
    assert build.write(tmp_path, found) == ["promtool/Gone.test.yaml"]
    assert foreign.read_text() == "mine\n"


def test_intervals_and_windows_follow_the_render_options(catalogue: Catalogue) -> None:
    """With 1 s scrapes the main group runs every second and the grace of a lost GPU is four seconds."""
    second = timedelta(seconds=1)
    (main_group, *_rest) = build_groups(catalogue, Options(scrape_interval=second, interval=second))
    text = to_yaml(group_data(main_group))
    assert main_group.interval == second
    assert 'gpu_missed:since_seconds{job=""} <= time() - 4\n' in text
    assert "offset 4s" in text


def test_an_option_that_lets_series_go_stale_is_refused() -> None:
    """Intervals of five minutes or more would leave gaps in an instant vector, so they are refused with the name."""
    with pytest.raises(ValueError, match="slow_interval"):
        Options(slow_interval=timedelta(minutes=6))
    with pytest.raises(ValueError, match="--job"):
        from_arguments({"job": ["unknown=.*"]})


def test_the_rule_objects_hold_every_group_once_below_the_operators_limit(groups: tuple[Group, ...]) -> None:
    """PrometheusRule objects stay below 512 KiB, hold all groups, and more objects are made when the limit is small."""
    objects = prometheus_rules(groups, Options())
    assert [g["name"] for o in objects for g in o["spec"]["groups"]] == [g.name for g in groups]
    assert all(len(to_yaml(o).encode()) < 512 * 1024 for o in objects)
    biggest = max(len(to_yaml(group_data(g)).encode()) for g in groups)
    sharded = prometheus_rules(groups, Options(), limit=biggest)
    assert [g["name"] for o in sharded for g in o["spec"]["groups"]] == [g.name for g in groups]
    assert len({o["metadata"]["name"] for o in sharded}) == len(sharded)
    with pytest.raises(ValueError, match=r"group .* has \d+ bytes"):
        prometheus_rules(groups, Options(), limit=100)


def test_plain_files_and_objects_carry_the_same_rules() -> None:
    """The rule file for a plain Prometheus and the objects for the operator are the same groups."""
    plain = yaml.safe_load((RULES / "generated" / "gpuheal.rules.yaml").read_text())["groups"]
    objects = sorted((RULES / "generated").glob("prometheusrule*.yaml"))
    wrapped = [g for path in objects for g in yaml.safe_load(path.read_text())["spec"]["groups"]]
    assert wrapped == plain
