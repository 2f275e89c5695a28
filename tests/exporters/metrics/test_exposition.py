"""Our renderer against prometheus_client's."""

from __future__ import annotations

import math

from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from gpuheal_exporters.metrics.exposition import exposition


def families() -> list[Metric]:
    counter = CounterMetricFamily("c", "Help with \\ and\nbreak.", labels=("b", "a"))
    counter.add_metric(("x", 'quote " back \\ break \n ü'), 3)
    counter.add_metric(("", "y"), 2**60)
    gauge = GaugeMetricFamily("g", "Help.")
    gauge.add_metric((), 1795316713.3)
    odd = GaugeMetricFamily("odd", "Help.", labels=("which",))
    for number, value in enumerate((math.inf, -math.inf, math.nan, 0.0, -1.5, 1e-9)):
        odd.add_metric((str(number),), value)
    return [counter, gauge, odd, GaugeMetricFamily("empty", "No samples.")]


class Given(Collector):
    def collect(self) -> list[Metric]:
        return families()


def read(text: bytes) -> list[tuple[str, str, str, list[tuple[str, dict[str, str], str]]]]:
    return [
        (made.name, made.type, made.documentation, [(one.name, one.labels, str(one.value)) for one in made.samples])
        for made in text_string_to_metric_families(text.decode())
    ]


def test_both_renderers_say_the_same() -> None:
    """Names, types, helps, escaped labels and every kind of number come out alike."""
    assert read(exposition(families())) == read(generate_latest(Given()))
