"""The text exposition (format 0.0.4) of metric families.

prometheus_client's own renderer negotiates formats and needs ten times as long for the same text; a scrape every few
seconds on every node is the exporter's main cost. A test holds both to the same samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@lru_cache(maxsize=4096)
def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _number(value: float) -> str:
    if math.isfinite(value):
        return repr(float(value))
    return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"


def exposition(families: Iterable[Metric]) -> bytes:
    """Return the text of these families in their order; label names within a sample are sorted."""
    out: list[str] = []
    for metric in families:
        name = f"{metric.name}_total" if metric.type == "counter" else metric.name
        documentation = metric.documentation.replace("\\", "\\\\").replace("\n", "\\n")
        out.append(f"# HELP {name} {documentation}\n# TYPE {name} {metric.type}\n")
        for sample in metric.samples:
            value = _number(sample.value)
            if sample.labels:
                pairs = [f'{label}="{_escaped(text)}"' for label, text in sorted(sample.labels.items())]
                out.append(f"{sample.name}{{{','.join(pairs)}}} {value}\n")
            else:
                out.append(f"{sample.name} {value}\n")
    return "".join(out).encode("utf-8", "replace")  # half a surrogate pair must not cost the whole page


class Collectors(Collector):
    """Several collectors seen as one, in order; takes the place of a registry."""

    def __init__(self, collectors: Iterable[Collector]) -> None:
        self._collectors = tuple(collectors)

    def collect(self) -> Iterable[Metric]:
        """Yield every family of every collector that has samples."""
        for collector in self._collectors:
            for metric in collector.collect():
                if metric.samples:
                    yield metric

    def describe(self) -> Iterable[Metric]:
        """Return nothing, so that registering does not collect."""
        return ()


def render(*collectors: Collector) -> bytes:
    """Return the text exposition (format 0.0.4) of these collectors; no global registry is involved."""
    return exposition(Collectors(collectors).collect())
