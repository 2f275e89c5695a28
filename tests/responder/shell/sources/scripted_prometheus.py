"""A scripted Prometheus, and the evidence source that asks it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from tests.responder.shell.scripted import NOW, MakeScript, Script, no_problem

from gpuheal_responder.config.settings import PrometheusServer
from gpuheal_responder.shell.sources.prometheus import PrometheusEvidence

QUERY = "/api/v1/query"
INFO = "/api/v1/status/runtimeinfo"
T = NOW.timestamp()


def vector(*series: tuple[Mapping[str, str], float | str]) -> dict[str, Any]:
    """An instant vector at T."""
    result = [{"metric": labels, "value": [T, str(value)]} for labels, value in series]
    return {"status": "success", "data": {"resultType": "vector", "result": result}}


def matrix(*series: tuple[Mapping[str, str], Sequence[tuple[float, int]]]) -> dict[str, Any]:
    """A range vector."""
    result = [{"metric": labels, "values": [[at, str(v)] for at, v in values]} for labels, values in series]
    return {"status": "success", "data": {"resultType": "matrix", "result": result}}


def shaped(series: object) -> dict[str, Any]:
    """An instant vector with a series of any shape."""
    return {"status": "success", "data": {"resultType": "vector", "result": [series]}}


class Prometheus:
    """Answers by the beginning of the expression; keeps the expressions."""

    def __init__(self, answers: Mapping[str, object]) -> None:
        self.answers = answers
        self.asked: list[tuple[str, str]] = []

    def __call__(self, fields: Mapping[str, list[str]]) -> object:
        """Answer one query."""
        (expression,) = fields["query"]
        if expression == "time()":
            return {"status": "success", "data": {"resultType": "scalar", "result": [T, f"{T:.3f}"]}}
        self.asked.append((expression, fields["time"][0]))
        found = [answer for start, answer in self.answers.items() if expression.startswith(start)]
        return found[-1] if found else vector()


async def source_at(
    script: Script, ignored: list[str] | None = None, cluster: str = "", **server: Any
) -> PrometheusEvidence:
    """An evidence source that asks the script."""
    return PrometheusEvidence(
        PrometheusServer(url=script.url, timeout=timedelta(seconds=0.5), **server),
        window=timedelta(minutes=10),
        cluster=cluster,
        on_problem=no_problem,
        on_ignored=ignored.append if ignored is not None else no_problem,
    )


async def prometheus(make_script: MakeScript, answers: Mapping[str, object]) -> tuple[Script, Prometheus]:
    """A scripted Prometheus."""
    script, server = await make_script(), Prometheus(answers)
    script.answers[QUERY] = server
    return script, server
