"""The settings file: what it may say, and how a mistake in it is named."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from gpuheal_responder.config import page as settingsdoc
from gpuheal_responder.config.settings import load
from gpuheal_responder.core.budget import DEFAULT_KEYS
from gpuheal_responder.core.mode import Mode
from gpuheal_responder.errors import ConfigError

LEAST = """\
policies: [policies.yaml]
listen:
  webhook_token_files: [secret/token]
alertmanagers:
  - url: http://alertmanager:9093
prometheus:
  url: http://prometheus:9090
"""


def write(folder: Path, text: str) -> Path:
    """Write a settings file."""
    path = folder / "settings.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_least_file_is_enough(tmp_path: Path) -> None:
    """Four keys are required; everything else has a default, and files are taken relative to the settings file."""
    found = load(write(tmp_path, LEAST))
    assert found.policies == (tmp_path / "policies.yaml",)
    assert found.listen.webhook_token_files == (tmp_path / "secret/token",)
    assert found.engine.tick == timedelta(seconds=15)
    assert found.engine.mode is Mode.ENFORCE
    assert found.budgets.keys() == DEFAULT_KEYS


def test_every_kind_of_value_is_read(tmp_path: Path) -> None:
    """Durations, numbers, switches, enumerations, lists and nested mappings become what their fields say."""
    text = LEAST.replace("http://alertmanager:9093", "https://am.monitoring:9093/am\n    resolve: true")
    text += "cluster: prod\nengine: {tick: 5s, mode: observe, cases: 8}\nbudgets: {rack: [example.com/rack]}\n"
    found = load(write(tmp_path, text))
    assert (found.cluster, found.engine.mode, found.engine.cases) == ("prod", Mode.OBSERVE, 8)
    assert found.budgets.rack == ("example.com/rack",)
    assert found.alertmanagers[0].url.endswith("/am")
    assert found.alertmanagers[0].resolve


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (("listen:", "lisen:"), "lisen: unknown key (did you mean listen?)"),
        (("policies: [policies.yaml]\n", ""), "policies: missing"),
        (("policies: [policies.yaml]", "policies: []"), "policies: expected a list"),
        (("webhook_token_files: [secret/token]", "port: 1"), "listen: the webhook needs webhook_token_files"),
        (("http://alertmanager:9093", "alertmanager:9093"), "alertmanagers[0]: url 'alertmanager:9093' is not"),
        (("http://alertmanager:9093", "http://u:p@a:9093"), "alertmanagers[0]: a URL must not carry a password"),
        (("http://prometheus:9090", "http://p:9090\n  timeout: 5"), "prometheus.timeout: expected a duration"),
        (("http://prometheus:9090", "http://p:9090\nengine: {tick: 31s}"), "engine: tick must be between 1s and 30s"),
        (("http://prometheus:9090", "http://p:9090\nengine: {mode: act}"), "engine.mode: unknown value 'act'"),
        (("http://prometheus:9090", "http://p:9090\nkubernetes: {page_size: '5'}"), "kubernetes.page_size: expected a"),
        (
            ("http://prometheus:9090", "http://p:9090\nkubernetes: {page_size: true}"),
            "kubernetes.page_size: expected a",
        ),
        (
            ("http://prometheus:9090", "http://p:9090\nkubernetes: {page_size: 1}"),
            "kubernetes: page_size must be between",
        ),
        (
            ("http://prometheus:9090", "http://p:9090\ncluster: a\ncluster: b"),
            "line 9, column 1: not YAML: duplicate key 'cluster'",
        ),
        (("http://prometheus:9090", "[unclosed"), "not YAML"),
        (("http://prometheus:9090", "http://p:9090\nproviders: {job: {image: reboot:1}}"), "providers.job: image"),
        (("http://prometheus:9090", "http://p:9090\n  tls: {cert_file: c}"), "prometheus.tls: cert_file and key_file"),
    ],
)
def test_a_mistake_is_named_with_file_and_path(tmp_path: Path, change: tuple[str, str], named: str) -> None:
    """Every mistake is refused with the file, the path inside it, and what was expected."""
    path = write(tmp_path, LEAST.replace(*change))
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert named in str(caught.value)


def test_a_missing_file_is_a_config_error(tmp_path: Path) -> None:
    """A file that can't be read is the operator's to mend, not a traceback."""
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / "none.yaml")


def test_one_alertmanager_cannot_count_twice(tmp_path: Path) -> None:
    """The same URL twice would make one peer look like two that agree."""
    text = LEAST.replace("  - url: http://alertmanager:9093\n", "  - url: http://a:9093\n  - url: http://a:9093\n")
    with pytest.raises(ConfigError, match="the same url"):
        load(write(tmp_path, text))


def test_mtls_needs_the_names_of_the_clients(tmp_path: Path) -> None:
    """A CA alone would let everybody it ever signed post to the webhook."""
    tls = "\n  tls: {cert_file: c, key_file: k, client_ca_file: ca}"
    with pytest.raises(ConfigError, match=r"listen\.tls: client_ca_file and client_names must be set together"):
        load(write(tmp_path, LEAST.replace("[secret/token]", "[secret/token]" + tls)))


def test_every_setting_is_documented() -> None:
    """The page of settings says what the code says, for every field."""
    written = Path(__file__).parents[3] / "responder" / "SETTINGS.md"
    assert written.read_text(encoding="utf-8") == settingsdoc.page()
