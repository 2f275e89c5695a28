"""Evidence from Prometheus: a few instant queries for the whole fleet, all at one moment of Prometheus' own clock.

One look asks one server. Two replicas behind one name know different things, and half of each is no evidence: all
queries go over one connection, one after the other, and the server is asked who it is before and after them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from gpuheal_responder.config.settings import PrometheusServer
from gpuheal_responder.core.duration import format_duration, people_duration
from gpuheal_responder.core.reason import SeriesReason
from gpuheal_responder.core.sighting import Evidence
from gpuheal_responder.errors import ConfigError, ObserveError
from gpuheal_responder.ports import Clock
from gpuheal_responder.shell.sources.client import UNUSABLE, Client
from gpuheal_responder.shell.sources.series import Series, data_of, folded, moment_of, series_of, started_of, told_of

SOURCE = "prometheus"
WITNESS = "gpuheal:fault_witness:last_seen_seconds"
IDENTITY = "gpuheal:gpu_identity"
BOOTED = "gpuheal_node_boot_timestamp_seconds"
RECORDED = 'job=""'
"""What rules made has no job; a series of the same name that somebody's page shows has that page's."""
STATE = "gpuheal:gpu_state"
CHUNK = 100
"""Nodes named in one query: the states of 100 nodes with 8 GPUs in ten minutes are 1 MB, decoded in about 10 ms."""
QUERY = "/api/v1/query"
NO_SUCH_PAGE = ("HTTP 404", "HTTP 405", "HTTP 400", "HTTP 501")
WHOLE_LOOK = 6
"""How many times as long as one request a look may take: it has dozens when a thousand nodes are faulty."""
MOST_SERVERS = 16
SKEW_S = 5.0
LATELY = timedelta(minutes=5)
OUR_GROUPS = 'rule_group=~".*gpuheal.*"'
_NODE = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")  # DNS-1123 subdomain


class PrometheusEvidence:
    """The port EvidenceSource on a real Prometheus, 2.42 and later."""

    def __init__(
        self,
        server: PrometheusServer,
        *,
        window: timedelta,
        cluster: str = "",
        on_problem: Callable[[ConfigError], None],
        on_ignored: Callable[[str], None],
    ) -> None:
        """Read the files the settings name; `window` is how far back GPU states are read.

        Where series carry the label `cluster`, as those of a ruler over several clusters do, only ours are read.
        `on_ignored` is told, as a slug, of each series that breaks the contract; such a series is no evidence.
        """
        self._client = Client(server, source=SOURCE, on_problem=on_problem, connections=1)
        self._turn = asyncio.Lock()
        self._deadline_s = WHOLE_LOOK * server.timeout.total_seconds()
        self._servers = Servers()
        self._last_at = 0.0
        self._window = format_duration(window)
        self._ours = f"cluster=~{json.dumps(re.escape(cluster) + '|')}" if cluster else ""
        self._on_ignored = on_ignored
        self._settle = server.settle
        self._pipeline = _pipeline(server)

    async def read(self, health_of: Collection[str]) -> Mapping[str, Evidence]:
        """Return evidence of every node that has a witness or is named in `health_of`; ObserveError if any query fails.

        Identities are read for the same nodes, boot times and GPU states only for `health_of`; those nodes are always
        keys. Two servers behind one name are an ObserveError as well.
        """
        names = sorted(name for name in health_of if self._is_node(name))
        async with self._whole_look():
            first = await self._who()
            at = await self._later()
            found, chunks = await self._asked(names, f"{at:.3f}")
            last = {await self._who(), await self._who()}  # a balancer that takes turns shows one at every second
        if last != {first}:
            raise ObserveError(SOURCE, "another Prometheus server answered in the middle of a read")
        try:
            evidence, ignored = await asyncio.to_thread(  # hundreds of thousands of samples would hold the event loop
                folded, found, chunks, datetime.fromtimestamp(at, UTC), health_of
            )
        except UNUSABLE as problem:
            raise ObserveError(SOURCE, f"invalid series: {type(problem).__name__}: {problem}") from None
        for reason in ignored:
            self._on_ignored(reason)
        return evidence

    async def _asked(self, names: Sequence[str], moment: str) -> tuple[Sequence[Sequence[Series]], int]:
        """Return the answers of one look in order, and into how many chunks the nodes were cut."""
        witness = self._of(WITNESS)
        asked = [witness, f"time() - timestamp({witness})", f"{self._of(IDENTITY)} and on (node) {witness}"]
        chunks = ["|".join(map(_escaped, names[i : i + CHUNK])) for i in range(0, len(names), CHUNK)]
        asked += [self._of(IDENTITY, chunk) for chunk in chunks]
        asked += [f"max by (node) ({self._of(BOOTED, chunk)})" for chunk in chunks]
        asked += [f"{self._of(STATE, chunk)}[{self._window}]" for chunk in chunks]
        return [await self._query(expression, moment) for expression in asked], len(chunks)

    def _of(self, name: str, nodes: str = "") -> str:
        """Return the selector of a series in our cluster, of all nodes or of those that match."""
        where = (f'node=~"{nodes}"' if nodes else "", self._ours, RECORDED if ":" in name else "")
        matchers = ",".join(filter(None, where))
        return f"{name}{{{matchers}}}" if matchers else name

    @contextlib.asynccontextmanager
    async def _whole_look(self) -> AsyncIterator[None]:
        """Keep queries that belong together uninterrupted, and within a deadline."""
        try:
            async with self._turn, asyncio.timeout(self._deadline_s):
                yield
        except TimeoutError:
            raise ObserveError(SOURCE, f"no complete response within {self._deadline_s:g}s") from None

    async def _who(self) -> float | None:
        """Return when the server that answers started; ObserveError when another one answered before."""
        try:
            started_at: float = await self._client.get("/api/v1/status/runtimeinfo", started_of)
        except ObserveError as problem:
            if problem.problem.startswith(NO_SUCH_PAGE):  # it speaks PromQL without being Prometheus (Thanos, Mimir)
                return None
            raise
        self._servers.heard(started_at)
        return started_at

    async def _later(self) -> float:
        """Return the server's time; ObserveError if that is before the last look's: it is another server's time."""
        at = await self.now()
        before, self._last_at = self._last_at, at
        if at < before:
            raise ObserveError(SOURCE, f"its time went back by {before - at:.3f}s: do two servers share one host name?")
        return at

    async def pipeline(self, clock: Clock) -> str:
        """Return why nothing disruptive may start as far as Prometheus can tell, or an empty text.

        Reasons: it started a moment ago, its clock and ours differ, our rules failed, their evaluations or
        notifications were dropped, its configuration was refused. All but the first two are metrics of its own, so
        they are seen only if it scrapes itself.
        """
        try:
            async with self._whole_look():
                before = clock.now().timestamp()
                at = await self.now()
                after = clock.now().timestamp()
                if at < before - SKEW_S or at > after + SKEW_S:
                    return f"prometheus-skew: its clock is off by {at - (before + after) / 2:+.1f}s"
                started_at = await self._who()
                fields = {"query": self._pipeline, "time": f"{at:.3f}"}
                problems = await self._client.post(QUERY, lambda body: told_of(series_of(body)), fields)
        except ObserveError as problem:
            return f"prometheus-unreadable: {problem.problem}"
        if started_at is not None and at - started_at < self._settle.total_seconds():
            return f"prometheus-settling: it started {people_duration(timedelta(seconds=at - started_at))} ago"
        return problems

    async def now(self) -> float:
        """Return Prometheus' clock as Unix seconds; ObserveError if it does not answer."""
        return await self._client.post(QUERY, lambda body: moment_of(data_of(body)), {"query": "time()"})

    async def close(self) -> None:
        """All connections are closed."""
        await self._client.close()

    async def _query(self, expression: str, moment: str) -> Sequence[Series]:
        return await self._client.post(QUERY, series_of, {"query": expression, "time": moment})

    def _is_node(self, name: str) -> bool:
        if len(name) <= 253 and _NODE.fullmatch(name):
            return True
        self._on_ignored(SeriesReason.NODE_NAME)
        return False


class Servers:
    """Knows the servers that have answered under one name, by the moment each started."""

    def __init__(self) -> None:
        self._known: dict[float, None] = {}

    def heard(self, started_at: float) -> None:
        """Take note of who answers; ObserveError when it is one that had made room for another.

        A server that was started anew has not been heard before; one that comes back was there all the time.
        """
        newest = next(reversed(self._known), started_at)
        if started_at != newest and started_at in self._known:
            del self._known[started_at]
            self._known[started_at] = None
            both = " and ".join(datetime.fromtimestamp(at, UTC).isoformat() for at in sorted((started_at, newest)))
            raise ObserveError(SOURCE, f"two servers answer under one host name: started {both}")
        self._known[started_at] = None
        while len(self._known) > MOST_SERVERS:
            del self._known[next(iter(self._known))]


def _pipeline(server: PrometheusServer) -> str:
    job = f"job={json.dumps(server.job)}" if server.job else ""
    lately = f"[{format_duration(LATELY)}]"

    def grown(name: str, only: str = "") -> str:
        chosen = ",".join(matcher for matcher in (job, only) if matcher)
        return f"sum(increase({name}{{{chosen}}}{lately})) > 0"

    found = {
        "prometheus-settling": f"min(time() - (process_start_time_seconds{{{job}}} and on (job, instance) "
        f"prometheus_build_info)) < {server.settle.total_seconds():g}",
        "rule-failures": grown("prometheus_rule_evaluation_failures_total", OUR_GROUPS),
        "rule-evaluations-missed": grown("prometheus_rule_group_iterations_missed_total", OUR_GROUPS),
        "notifications-dropped": grown("prometheus_notifications_dropped_total"),
        "prometheus-config-refused": f"min(prometheus_config_last_reload_successful{{{job}}}) < 1",
    }
    return " or ".join(f'label_replace({expr}, "problem", "{slug}", "", "")' for slug, expr in found.items())


def _escaped(name: str) -> str:
    return name.replace(".", "[.]")  # the only sign of a DNS-1123 name that means something in RE2
