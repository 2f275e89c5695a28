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
        raise ValueError(f"{name} must lie between {low} and {high}")


@dataclass(frozen=True, slots=True, kw_only=True)
class BasicAuth:
    """HTTP basic authentication."""

    username: str
    """User name."""

    password_file: Path
    """File with the password; read again when it changes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientTls:
    """How a server's certificate is checked and which one we show."""

    ca_file: Path | None = None
    """CA certificates that sign the server's certificate; absent = the system's."""

    cert_file: Path | None = None
    """Client certificate for mTLS; needs key_file."""

    key_file: Path | None = None
    """Key of cert_file."""

    server_name: str = ""
    """Name the server's certificate must carry, when it is not the one in the URL."""

    def __post_init__(self) -> None:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file belong together")


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A server we ask."""

    url: str
    """Where it listens, with its path prefix if it has one."""

    bearer_token_file: Path | None = None
    """File with a bearer token; read again when it changes."""

    basic_auth: BasicAuth | None = None
    """HTTP basic authentication, instead of a bearer token."""

    tls: ClientTls = ClientTls()
    """TLS, when the URL's scheme is https."""

    timeout: timedelta = timedelta(seconds=5)
    """Longest time one request may take."""

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")) or len(self.url.split("://", 1)[1].strip("/")) == 0:
            raise ValueError(f"url {self.url!r} is not an http:// or https:// address")
        if "@" in self.url.split("://", 1)[1].split("/", 1)[0]:
            raise ValueError("a URL must not carry a password; use basic_auth")
        if self.bearer_token_file is not None and self.basic_auth is not None:
            raise ValueError("bearer_token_file and basic_auth exclude each other")
        if self.timeout <= timedelta(0):
            raise ValueError("timeout must be longer than 0s")


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertmanagerPeer(Endpoint):
    """One Alertmanager, or all that a name resolves to."""

    resolve: bool = False
    """Take every address the host name resolves to as one peer (a headless Service)."""

    settle: timedelta = timedelta(minutes=2)
    """How long after its start a peer counts as settling: inhibition is empty until Prometheus has sent again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrometheusServer(Endpoint):
    """The Prometheus that evaluates our rules."""

    settle: timedelta = timedelta(minutes=2)
    """How long after its start nothing disruptive begins."""

    job: str = ""
    """Value of the label `job` under which it scrapes itself; empty = any whose `prometheus_build_info` it has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerTls:
    """The certificate we show, and which client certificates count as the webhook's sender."""

    cert_file: Path
    """Our certificate, with its chain."""

    key_file: Path
    """Its key."""

    client_ca_file: Path | None = None
    """CA of client certificates; with it Alertmanager may authenticate by mTLS instead of a token."""

    client_names: tuple[str, ...] = ()
    """Names (DNS SAN or CN) of the clients that may post to the webhook."""

    def __post_init__(self) -> None:
        if (self.client_ca_file is None) == bool(self.client_names):
            raise ValueError("client_ca_file and client_names belong together")


@dataclass(frozen=True, slots=True, kw_only=True)
class Listen:
    """Where and how we listen."""

    host: str = "0.0.0.0"  # noqa: S104  # a pod's own address
    """Address to bind to."""

    port: int = 9940
    """TCP port."""

    webhook_token_files: tuple[Path, ...] = ()
    """Files with the tokens Alertmanager may show; all are valid, so a token can be rotated without a gap."""

    metrics_token_files: tuple[Path, ...] = ()
    """Files with the tokens for /metrics; none = a Kubernetes token whose owner may `get` the URL /metrics. They
    should not open the webhook: whoever scrapes could send alerts."""

    tokens_over_http: bool = False
    """Take Kubernetes tokens over plain HTTP too; they can be read on the way. Otherwise they are taken over TLS, and
    from loopback (`kubectl port-forward`, a mesh's proxy)."""

    tls: ServerTls | None = None
    """TLS; absent = plain HTTP."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port {self.port} is not a TCP port")
        if not self.webhook_token_files and (self.tls is None or self.tls.client_ca_file is None):
            raise ValueError("the webhook needs webhook_token_files, or tls.client_ca_file with tls.client_names")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kubernetes:
    """How the API server is reached."""

    kubeconfig: Path | None = None
    """kubeconfig to use; absent = $KUBECONFIG, else the pod's service account, else ~/.kube/config."""

    context: str = ""
    """Context of the kubeconfig; empty = its current one."""

    page_size: int = 50
    """Objects per page of a LIST."""

    concurrency: int = 32
    """Requests under way at once."""

    timeout: timedelta = timedelta(seconds=15)
    """Longest time one request may take; watches end by themselves."""

    lease: str = "gpuheal-responder"
    """Lease in our namespace that elects the one executor."""

    controls: str = "gpuheal-controls"
    """ConfigMap in our namespace through which people pause us or cap the mode at run time."""

    def __post_init__(self) -> None:
        _within("page_size", self.page_size, 10, 5000)
        _within("concurrency", self.concurrency, 1, 256)


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """How often we look, and how far back."""

    tick: timedelta = timedelta(seconds=15)
    """Longest time between two looks at the world; at most 30s."""

    mode: Mode = Mode.ENFORCE
    """Cap on the mode of every policy."""

    health_window: timedelta = timedelta(minutes=10)
    """How far back GPU states are read to prove health."""

    cases: int = 32
    """Steps performed and writes made at the same time."""

    def __post_init__(self) -> None:
        if not timedelta(seconds=1) <= self.tick <= LONGEST_TICK:
            raise ValueError("tick must lie between 1s and 30s")
        _within("cases", self.cases, 1, 1024)
        if not timedelta(minutes=1) <= self.health_window <= timedelta(hours=1):
            raise ValueError("health_window must lie between 1m and 1h")


@dataclass(frozen=True, slots=True, kw_only=True)
class Budgets:
    """Node labels that say which failure domain a node is in; the first that a node carries counts."""

    pool: tuple[str, ...] = DEFAULT_KEYS["pool"]
    """Labels of the pool of like machines."""

    rack: tuple[str, ...] = DEFAULT_KEYS["rack"]
    """Labels of the rack."""

    zone: tuple[str, ...] = DEFAULT_KEYS["zone"]
    """Labels of the zone."""

    fabric_domain: tuple[str, ...] = DEFAULT_KEYS["fabric-domain"]
    """Labels of the NVLink domain."""

    def keys(self) -> dict[str, tuple[str, ...]]:
        """Return the labels by dimension, as core.budget.domains_of takes them."""
        return {"pool": self.pool, "rack": self.rack, "zone": self.zone, "fabric-domain": self.fabric_domain}


def _sections() -> dict[str, Any]:
    return {name: kind.settings() for name, kind in PROVIDERS.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Providers:
    """Whoever can reboot or replace a machine."""

    default: str = "job"
    """Provider of policies that name none."""

    by_name: Mapping[str, Any] = field(
        default_factory=_sections, metadata={SECTIONS: {name: kind.settings for name, kind in PROVIDERS.items()}}
    )
    """Settings of each provider of the registry, under its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watchdog:
    """The dead man's alert, and whom we tell that all is well."""

    interval: timedelta = timedelta(minutes=1)
    """How often Prometheus sends GPUHealWatchdog to Alertmanager (its --rules.alert.resend-delay); silent for three of
    these, nothing disruptive starts."""

    thaw: timedelta = timedelta(minutes=5)
    """Quiet time after the pipeline is well again before anything disruptive starts."""

    url_file: Path | None = None
    """File with an external dead man's URL (such URLs are secrets). The replica that leads pings it while its rounds
    end well and the pipeline is well."""

    def __post_init__(self) -> None:
        if not timedelta(seconds=1) <= self.interval <= timedelta(minutes=10):
            raise ValueError("interval must lie between 1s and 10m")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything a site decides about one responder."""

    cluster: str = ""
    """Value of the label `cluster` on our alerts; empty = alerts carry none. Others' alerts are dead letters."""

    namespace: str = "gpuheal"
    """Namespace of our Remediations, Lease and ConfigMap."""

    policies: tuple[Path, ...]
    """Policy files; read again when they change, a bad change keeps the old set."""

    listen: Listen
    """Where and how we listen."""

    alertmanagers: tuple[AlertmanagerPeer, ...]
    """Every peer of the Alertmanager that routes to us."""

    prometheus: PrometheusServer
    """The Prometheus that evaluates our rules."""

    kubernetes: Kubernetes = Kubernetes()
    """How the API server is reached."""

    engine: Engine = Engine()
    """How often we look, and how far back."""

    budgets: Budgets = field(default_factory=Budgets)
    """Node labels that say which failure domain a node is in."""

    providers: Providers = Providers()
    """Whoever can reboot or replace a machine."""

    watchdog: Watchdog = Watchdog()
    """The dead man's alert, and whom we tell that all is well."""

    def __post_init__(self) -> None:
        urls = [peer.url for peer in self.alertmanagers]
        if len(set(urls)) < len(urls):
            raise ValueError("alertmanagers names one url twice")


def load(path: Path) -> Settings:
    """Return the settings of a YAML file; raise ConfigError naming the file and the path of the first mistake.

    Files named inside it may be relative to its folder. They are not opened here.
    """
    return read(path, Settings)
