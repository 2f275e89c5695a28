"""What a site decides about the responder: one YAML file, read strictly.

The file's keys are the fields of these dataclasses; the text under a field is its documentation (SETTINGS.md is made
from it). Durations are texts such as `30s`. Secrets never stand in the file: it names files that hold them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from gpuheal_responder.config.reader import SECTIONS, read
from gpuheal_responder.core.budget import DEFAULT_KEYS
from gpuheal_responder.core.mode import Mode
from gpuheal_responder.providers import PROVIDERS

LONGEST_TICK = timedelta(seconds=30)


def _within(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name} must be between {low} and {high}")


@dataclass(frozen=True, slots=True, kw_only=True)
class BasicAuth:
    """HTTP basic authentication."""

    username: str
    """User name."""

    password_file: Path
    """File with the password; reloaded when it changes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientTls:
    """How the server's certificate is verified, and the client certificate to present."""

    ca_file: Path | None = None
    """CA certificates that sign the server's certificate; default: the system's."""

    cert_file: Path | None = None
    """Client certificate for mTLS; needs key_file."""

    key_file: Path | None = None
    """Private key of cert_file."""

    server_name: str = ""
    """Name that the server's certificate must carry, if it differs from the host in the URL."""

    def __post_init__(self) -> None:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file must be set together")


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A server to query."""

    url: str
    """Base URL, including a path prefix if there is one."""

    bearer_token_file: Path | None = None
    """File with a bearer token; reloaded when it changes."""

    basic_auth: BasicAuth | None = None
    """HTTP basic authentication, as an alternative to bearer_token_file."""

    tls: ClientTls = ClientTls()
    """TLS, when the URL's scheme is https."""

    timeout: timedelta = timedelta(seconds=5)
    """Timeout of one request."""

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")) or len(self.url.split("://", 1)[1].strip("/")) == 0:
            raise ValueError(f"url {self.url!r} is not an http:// or https:// address")
        if "@" in self.url.split("://", 1)[1].split("/", 1)[0]:
            raise ValueError("a URL must not carry a password; use basic_auth")
        if self.bearer_token_file is not None and self.basic_auth is not None:
            raise ValueError("bearer_token_file and basic_auth are mutually exclusive")
        if self.timeout <= timedelta(0):
            raise ValueError("timeout must be greater than 0s")


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertmanagerPeer(Endpoint):
    """One Alertmanager, or every replica behind a host name."""

    resolve: bool = False
    """Treat every address that the host name resolves to as a peer of its own (for a headless Service)."""

    settle: timedelta = timedelta(minutes=2)
    """Time after its start during which a peer's inhibitions are not trusted: they are empty until Prometheus has
    resent its alerts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrometheusServer(Endpoint):
    """The Prometheus that evaluates gpuheal's rules."""

    settle: timedelta = timedelta(minutes=2)
    """Time after its start during which no disruptive step starts."""

    job: str = ""
    """`job` label under which Prometheus scrapes itself; empty: any job with `prometheus_build_info`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerTls:
    """The server certificate, and the client certificates that may use the webhook."""

    cert_file: Path
    """Server certificate, with its chain."""

    key_file: Path
    """Private key of cert_file."""

    client_ca_file: Path | None = None
    """CA of client certificates; lets Alertmanager authenticate with mTLS instead of a token."""

    client_names: tuple[str, ...] = ()
    """DNS SANs or CNs of the clients that may post to the webhook."""

    def __post_init__(self) -> None:
        if (self.client_ca_file is None) == bool(self.client_names):
            raise ValueError("client_ca_file and client_names must be set together")


@dataclass(frozen=True, slots=True, kw_only=True)
class Listen:
    """Where and how the responder listens."""

    host: str = "0.0.0.0"  # noqa: S104  # a pod's own address
    """Address to bind to."""

    port: int = 9940
    """TCP port."""

    webhook_token_files: tuple[Path, ...] = ()
    """Files with the bearer tokens that Alertmanager may use; all of them are valid, so tokens can be rotated without
    downtime."""

    metrics_token_files: tuple[Path, ...] = ()
    """Files with the bearer tokens for /metrics; if none, a Kubernetes token whose user may `get` the nonResourceURL
    /metrics. They must differ from the webhook's tokens: otherwise a scraper could send alerts."""

    tokens_over_http: bool = False
    """Accept Kubernetes tokens over plain HTTP, where they can be intercepted. Otherwise they are accepted over TLS
    and from loopback only (`kubectl port-forward`, a service mesh's proxy)."""

    tls: ServerTls | None = None
    """TLS; default: plain HTTP."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port must be between 0 and 65535, got {self.port}")
        if not self.webhook_token_files and (self.tls is None or self.tls.client_ca_file is None):
            raise ValueError("the webhook needs webhook_token_files, or tls.client_ca_file with tls.client_names")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kubernetes:
    """How to reach the Kubernetes API server."""

    kubeconfig: Path | None = None
    """kubeconfig to use; default: $KUBECONFIG, else the pod's service account, else ~/.kube/config."""

    context: str = ""
    """Context of the kubeconfig; empty: its current context."""

    page_size: int = 50
    """Objects per page of a LIST."""

    concurrency: int = 32
    """Maximum number of concurrent requests."""

    timeout: timedelta = timedelta(seconds=15)
    """Timeout of one request; does not apply to watches."""

    lease: str = "gpuheal-responder"
    """Lease for leader election, in gpuheal's namespace."""

    controls: str = "gpuheal-controls"
    """ConfigMap in gpuheal's namespace for pausing gpuheal or capping its mode at run time."""

    def __post_init__(self) -> None:
        _within("page_size", self.page_size, 10, 5000)
        _within("concurrency", self.concurrency, 1, 256)


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """The reconcile loop."""

    tick: timedelta = timedelta(seconds=15)
    """Maximum interval between two reconcile rounds; at most 30s."""

    mode: Mode = Mode.ENFORCE
    """Highest mode that any policy may have."""

    health_window: timedelta = timedelta(minutes=10)
    """How far back GPU states are read to verify health."""

    cases: int = 32
    """Maximum number of concurrent steps and writes."""

    def __post_init__(self) -> None:
        if not timedelta(seconds=1) <= self.tick <= LONGEST_TICK:
            raise ValueError("tick must be between 1s and 30s")
        _within("cases", self.cases, 1, 1024)
        if not timedelta(minutes=1) <= self.health_window <= timedelta(hours=1):
            raise ValueError("health_window must be between 1m and 1h")


@dataclass(frozen=True, slots=True, kw_only=True)
class Budgets:
    """Node labels that give a node's failure domains; of each list, the first label that the node has counts."""

    pool: tuple[str, ...] = DEFAULT_KEYS["pool"]
    """Labels for the pool of similar machines."""

    rack: tuple[str, ...] = DEFAULT_KEYS["rack"]
    """Labels for the rack."""

    zone: tuple[str, ...] = DEFAULT_KEYS["zone"]
    """Labels for the zone."""

    fabric_domain: tuple[str, ...] = DEFAULT_KEYS["fabric-domain"]
    """Labels for the NVLink domain."""

    def keys(self) -> dict[str, tuple[str, ...]]:
        """Return the labels by dimension, as core.budget.domains_of takes them."""
        return {"pool": self.pool, "rack": self.rack, "zone": self.zone, "fabric-domain": self.fabric_domain}


def _sections() -> dict[str, Any]:
    return {name: kind.settings() for name, kind in PROVIDERS.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Providers:
    """The providers that can reboot or replace a machine."""

    default: str = "job"
    """Provider for steps that name none."""

    by_name: Mapping[str, Any] = field(
        default_factory=_sections, metadata={SECTIONS: {name: kind.settings for name, kind in PROVIDERS.items()}}
    )
    """Settings of each provider, by its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watchdog:
    """The Watchdog alert from Prometheus, and an external heartbeat."""

    interval: timedelta = timedelta(minutes=1)
    """How often Prometheus resends GPUHealWatchdog to Alertmanager (its --rules.alert.resend-delay); after three missed
    intervals no disruptive step starts."""

    thaw: timedelta = timedelta(minutes=5)
    """Time that the alert pipeline must have been healthy again before a disruptive step starts."""

    url_file: Path | None = None
    """File with the URL of an external heartbeat monitor (such URLs are secrets). The leader pings it while its rounds
    succeed and the alert pipeline is healthy."""

    def __post_init__(self) -> None:
        if not timedelta(seconds=1) <= self.interval <= timedelta(minutes=10):
            raise ValueError("interval must be between 1s and 10m")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything a site configures for one responder."""

    cluster: str = ""
    """Value of the `cluster` label on this cluster's alerts; empty: alerts have no such label. Alerts from other
    clusters are dead letters, and series that Prometheus has of other clusters are not read."""

    namespace: str = "gpuheal"
    """Namespace of gpuheal's Remediations, Lease and ConfigMaps."""

    policies: tuple[Path, ...]
    """Policy files; reloaded when they change. If a change is invalid, the previous policies stay in force."""

    listen: Listen
    """Where and how the responder listens."""

    alertmanagers: tuple[AlertmanagerPeer, ...]
    """Every peer of the Alertmanager that notifies gpuheal."""

    prometheus: PrometheusServer
    """The Prometheus that evaluates gpuheal's rules."""

    kubernetes: Kubernetes = Kubernetes()
    """How to reach the Kubernetes API server."""

    engine: Engine = Engine()
    """The reconcile loop."""

    budgets: Budgets = field(default_factory=Budgets)
    """Node labels that give a node's failure domains."""

    providers: Providers = Providers()
    """The providers that can reboot or replace a machine."""

    watchdog: Watchdog = Watchdog()
    """The Watchdog alert from Prometheus, and an external heartbeat."""

    def __post_init__(self) -> None:
        urls = [peer.url for peer in self.alertmanagers]
        if len(set(urls)) < len(urls):
            raise ValueError("two entries of alertmanagers have the same url")


def load(path: Path) -> Settings:
    """Return the settings of a YAML file; raise ConfigError naming the file and the path of the first mistake.

    File names inside it may be relative to its folder. Those files are not opened here.
    """
    return read(path, Settings)
