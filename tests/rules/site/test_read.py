"""A site's file is read strictly: every mistake is named with file and path, and all of them at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpuheal_responder.core import fleet
from gpuheal_responder.core.evidence import FRESH
from gpuheal_rules.catalogue.document import LARGEST_FILE, load_document
from gpuheal_rules.catalogue.load import load_catalogue
from gpuheal_rules.errors import ConfigError
from gpuheal_rules.options import LONGEST_INTERVAL
from gpuheal_rules.site.read import Site, read_site

FAULT = """\
{slug}:
  title: T
  family: {family}
  scope: gpu
  evidence:
    - {{class: dcgm, signal: {signal}, value: 1500}}
  ladder: {ladder}
  alerts:
    - {{name: {alert}, severity: warning, summary: S, description: '{description}'}}
  runbook: {{meaning: M, impact: I, gpuheal: G, person: [P]}}
  sources: [own]
"""
GOOD = {"slug": "my-fault", "family": "mine", "signal": "dcgm_power", "ladder": "[alert]", "alert": "GPUMine"}
GOOD |= {"description": "D"}


def read(folder: Path, text: str | bytes) -> Site:
    """Return what a file of this text makes."""
    file = folder / "site.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_site(file)


def problems(folder: Path, text: str | bytes) -> list[str]:
    """Return the lines of the error that a file of this text makes, without the folder."""
    with pytest.raises(ConfigError) as caught:
        read(folder, text)
    return str(caught.value).replace(f"{folder}/", "").splitlines()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("treshold: {}", "site.yaml: treshold: unknown key (did you mean thresholds?)"),
        ("zzz: 1", "site.yaml: zzz: unknown key (known: namespace, runbook_base, dashboard_base, cluster_label"),
        ("thresholds: {temperature_entr_celsius: 90}", "temperature_entr_celsius: unknown threshold"),
        ("thresholds: {temperature_entr_celsius: 90}", "(did you mean temperature_enter_celsius?)"),
        ("thresholds: {suspect_owners: 2.5}", "suspect_owners: expected a whole number of owners, got 2.5"),
        ("thresholds: {hold_seconds: 1h}", "thresholds.hold_seconds: expected a number (seconds), got '1h'"),
        ("thresholds: {hold_seconds: yes}", "thresholds.hold_seconds: expected a number (seconds), got 'yes'"),
        ("thresholds: {hold_seconds: true}", "thresholds.hold_seconds: expected a number (seconds), got True"),
        ("thresholds: {hold_seconds: 1:30}", "expected a number (seconds), got '1:30'"),
        ("thresholds: {hold_seconds: .inf}", "expected a number (seconds), got '.inf'"),
        ("thresholds: {fleet_anomaly_ratio: 20}", "expected share of the nodes from 0.01 to 1, got 20"),
        ("thresholds: {temperature_enter_celsius: 95}", "must be less than temperature_slowdown_celsius, 95 is not"),
        ("thresholds: [1]", "site.yaml: thresholds: expected a mapping, got a list"),
        ("alerts: {GPUthermal: {for: 5m}}", "alerts.GPUthermal: unknown alert 'GPUthermal' (did you mean GPUThermal?)"),
        ("alerts: {GPUThermal: {four: 5m}}", "alerts.GPUThermal.four: unknown key (did you mean for?)"),
        ("alerts: {GPUThermal: {for: 5}}", "got 5 (expected a number with a unit)"),
        ("alerts: {GPUThermal: {for: 300d}}", "alerts.GPUThermal.for: expected a duration from 0s to 7d, got '300d'"),
        ("alerts: {GPUThermal: {for: 99999999999999999999d}}", "expected a duration such as"),
        ("alerts: {GPUThermal: {severity: page}}", "expected one of critical, warning, info, got 'page'"),
        ("alerts: {GPUThermal: 5m}", "alerts.GPUThermal: expected a mapping, got '5m'"),
        ("alerts: {GPUAppError: {for: 1h}}", "1h is not less than the 1h the fault lasts (such an alert never fires)"),
        ("alerts: {GPUHealWatchdog: {for: 5m}}", "alerts.GPUHealWatchdog: cannot be changed"),
        ("holds: {gpu-thermal: 1h}", "holds.gpu-thermal: this fault does not end by time"),
        ("holds: {gpu-termal: 1h}", "unknown fault 'gpu-termal' (did you mean gpu-thermal?)"),
        ("disabled: [gpu-thermall]", "unknown fault or alert 'gpu-thermall' (did you mean gpu-thermal?)"),
        ("disabled: [watchdog]", "disabled[0]: watchdog cannot be switched off"),
        ("disabled: [GPUFellOffBus]", "disabled[0]: GPUFellOffBus cannot be switched off"),
        ("disabled: gpu-thermal", "disabled: expected a list, got 'gpu-thermal'"),
        ("disabled: [gpu-thermal, gpu-thermal]", "disabled[1]: duplicate 'gpu-thermal'"),
        ("disabled: [1]", "disabled[0]: expected a string, got 1"),
        ("disabled: [GPUThermal]\nalerts: {GPUThermal: {for: 1m}}", "changed here and switched off under `disabled`"),
        ("disabled: [gpu-thermal]\nalerts: {GPUThermal: {for: 1m}}", "changed here and switched off under `disabled`"),
        ("interval: 2m", "interval: must be at most 1m, else all evidence is stale to the responder"),
        ("scrape_interval: 10m", "scrape_interval: must be from 1s to 4m"),
        ("slow_interval: fast", "slow_interval: expected a duration such as"),
        ("namespace: GPU_ops", "namespace: 'GPU_ops' is not the name of a namespace"),
        ("runbook_base: wiki", "runbook_base: 'wiki' is not an http or https address with a host"),
        ("runbook_base: 'http://[x'", "runbook_base: "),
        ("runbook_base: 'https://x/{{ .a }}'", "is not an http or https address"),
        ("cluster_label: node", "cluster_label: 'node' is no label that could tell clusters apart"),
        ("label_profile: target2", "expected one of target, Hostname, hostname, old-namespace, got 'target2'"),
        ("jobs: {exporters: x}", "jobs.exporters: unknown source 'exporters' (did you mean exporter?)"),
        ("jobs: {exporter: '('}", "'(' is not a regular expression that Prometheus reads (RE2)"),
        ("jobs: {exporter: '(?=a)'}", "is not a regular expression that Prometheus reads (RE2)"),
        ("jobs: {exporter: '.*'}", "jobs.exporter: '.*' matches targets without a job"),
        ("jobs: {exporter: 'a\"b'}", "is empty or has a quote or a line break"),
        ("faults: nowhere", "faults: 'nowhere' is no folder beside this file"),
        ("faults: \"a\\0b\"", "is no folder beside this file"),
        ("faults: [x]", "faults: expected a string, got a list"),
        ("- a", "expected a mapping, got a list"),
        ("1: 2", "site.yaml: 1: expected a string as key, got 1"),
        ("a: 1\na: 2", "site.yaml: line 2: not YAML: duplicate key 'a'"),
        ("a: &x 1\nb: *x", "site.yaml: line 2: the alias *x is not read here (write the value out)"),
        ("a: !!python/name:os.system", "the tag tag:yaml.org,2002:python/name:os.system is not read here"),
        ("a: 1\n---\nb: 1", "site.yaml: line 2: a second document begins here"),
        ("a: [", "site.yaml: line 2: not YAML: "),
        ("[" * 50, "site.yaml: line 1: nested too deeply"),
        (b"a: \xff", "site.yaml: is not UTF-8 (byte 3)"),
        ("a: 1".encode("utf-16"), "site.yaml: is not UTF-8 but looks like UTF-16"),
        (b"# \n" * LARGEST_FILE, "site.yaml: is larger than 1048576 bytes"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_file_and_path(text: str | bytes, said: str, tmp_path: Path) -> None:
    """Unknown words, wrong types and impossible values are refused, with the word that was meant where one is near."""
    found = problems(tmp_path, text)
    assert any(said in line for line in found), found
    assert all(line.startswith("site.yaml: ") for line in found), found


def test_all_mistakes_are_said_at_once(tmp_path: Path) -> None:
    """A file with mistakes in every section names each of them, one line each."""
    text = "namespace: A\nintervall: 1s\nthresholds: {hold_seconds: x}\nalerts: {GPUThermal: {for: y, severity: z}}\n"
    found = problems(tmp_path, text + "disabled: [nothing-like-it]\nfaults: nowhere\njobs: {dcgm: '('}\n")
    assert len(found) == 8
    assert len({line.split(": ")[1] for line in found}) == 8


def test_a_file_that_cannot_be_read_is_said_so(tmp_path: Path) -> None:
    """A missing file, a folder and a device are refused by name, without reading them."""
    for path in (tmp_path / "gone.yaml", tmp_path, Path("/dev/zero")):
        with pytest.raises(ConfigError, match=str(path)):
            read_site(path)


def test_windows_files_are_files(tmp_path: Path) -> None:
    """CRLF and a byte order mark change nothing."""
    site = read(tmp_path, b"\xef\xbb\xbfnamespace: ops\r\ndisabled:\r\n  - gpu-thermal\r\n")
    assert site.options.namespace == "ops"
    assert set(site.catalogue.retired) == {"gpu-thermal"}


def test_words_of_yaml_1_1_stay_words(tmp_path: Path) -> None:
    """`on`, `no`, `010` and `1:30` are texts, so a key `no` is a key, and no number appears from nowhere."""
    file = tmp_path / "x.yaml"
    file.write_text("no: on\na: 010\nb: 1:30\nc: 2026-01-01\nd: true\ne: 1.5\nf: -3\n")
    wanted = {"no": "on", "a": "010", "b": "1:30", "c": "2026-01-01", "d": True, "e": 1.5, "f": -3}
    assert load_document(file) == wanted


def own(folder: Path, **changed: str) -> None:
    """Write a folder `mine` with one fault kind."""
    (folder / "mine").mkdir(exist_ok=True)
    (folder / "mine" / "faults.yaml").write_text(FAULT.format(**{**GOOD, **changed}))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"slug": "gpu-thermal"}, "mine/faults.yaml: gpu-thermal: already exists (use another name"),
        ({"alert": "GPUThermal"}, "my-fault.alerts[0].name: alert GPUThermal already exists"),
        ({"signal": "dcgm_powr"}, "mine/faults.yaml: my-fault.evidence[0].signal: unknown signal 'dcgm_powr'"),
        ({"family": "shared"}, "my-fault.family: shared is the name of a file of cases"),
        ({"family": "../x"}, "my-fault.family: family names are lowercase words"),
        ({"ladder": "[drain, reboot]"}, "my-fault.ladder: no generated policy has these steps"),
        ({"description": "for {four}"}, "my-fault.alerts[0].description: unknown number 'four' (did you mean for?)"),
        ({"slug": "My_Fault"}, "mine/faults.yaml: My_Fault: fault names are lowercase words separated by dashes"),
    ],
)
def test_own_faults_replace_nothing_and_are_read_as_strictly(
    changed: dict[str, str], said: str, tmp_path: Path
) -> None:
    """A kind, alert, signal or threshold that is shipped is not shadowed, and a mistake names the folder's file."""
    own(tmp_path, **changed)
    found = problems(tmp_path, "faults: ./mine")
    assert any(said in line for line in found), found


def test_signals_and_thresholds_of_the_folder_are_new_too(tmp_path: Path) -> None:
    """All files of the folder are read before the first complaint; a file that is none of them is named."""
    own(tmp_path)
    signal = "{source: dcgm, metrics: [DCGM_FI_DEV_X], unit: u, meaning: m}"
    (tmp_path / "mine" / "signals.yaml").write_text(f"dcgm_power: {signal}\n")
    shadow = "hold_seconds: {value: 1, least: 0, most: 2, unit: u, reason: r, source: s}\n"
    (tmp_path / "mine" / "thresholds.yaml").write_text(shadow)
    (tmp_path / "mine" / "fault.yaml").write_text("a: 1\n")
    (tmp_path / "mine" / ".hidden").write_text("not read")
    shipped = "already exists (use another name; to change a shipped entry, use the site file)"
    assert problems(tmp_path, "faults: mine") == [
        "mine/fault.yaml: is not a catalogue file (did you mean faults.yaml?)",
        f"mine/thresholds.yaml: hold_seconds: {shipped}",
        f"mine/signals.yaml: dcgm_power: {shipped}",
    ]


@pytest.mark.parametrize(
    ("source", "metric", "said"),
    [
        ("dcgm", "my_metric", "mine/signals.yaml: mine.metrics: the source dcgm has metrics DCGM_…"),
        ("exporter", "my_metric", "mine.metrics: the source exporter has metrics gpuheal_…"),
        ("prometheus", "gpuheal_gpu_present", "mine.metrics: gpuheal_* and DCGM_* have sources of their own"),
        ("ksm", "kube_x", "mine.source: expected exporter, dcgm or prometheus, got 'ksm'"),
    ],
)  # fmt: skip
def test_an_own_signal_says_whose_series_it_is(source: str, metric: str, said: str, tmp_path: Path) -> None:
    """Ours and dcgm-exporter's series are read from their jobs, so no other metric may stand under those sources."""
    own(tmp_path)
    signal = f"mine: {{source: {source}, metrics: [{metric}], unit: u, meaning: m}}\n"
    (tmp_path / "mine" / "signals.yaml").write_text(signal)
    assert any(said in line for line in problems(tmp_path, "faults: mine"))


def test_an_own_fault_is_a_fault_like_any_other(tmp_path: Path) -> None:
    """Its alert can be changed and switched off in the same file."""
    own(tmp_path)
    site = read(tmp_path, "faults: mine\nalerts: {GPUMine: {for: 3m}}\n")
    (alert,) = site.catalogue.faults["my-fault"].alerts
    assert alert.wait.total_seconds() == 180
    assert "my-fault" in read(tmp_path, "faults: mine\ndisabled: [my-fault]\n").catalogue.retired


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("disabled: [gpu-row-remap-failed]", "a GPU or node with gpu-row-remap-failed counts as healthy"),
        ("disabled: [telemetry-missing]", "no longer alerted on: Telemetry of a node missing"),
        ("disabled: [GPUHealExporterDown]", "no longer alerted on: GPUHealExporterDown"),
        ("alerts: {GPUThermal: {for: 1h}}", "evidence of a silent source is kept for 1h"),
        ("alerts: {GPUFellOffBus: {for: 30m}}", "the responder contains the node only after that time"),
        ("alerts: {GPUFellOffBus: {keep_firing_for: 5m}}", "the responder considers the fault present until then"),
        ("thresholds: {correlation_nodes: 5}", "the responder keeps its count of nodes with one cause (3)"),
        ("thresholds: {fleet_anomaly_ratio: 0.4}", "the responder keeps its share of a pool (20 %)"),
    ],
)
def test_what_sets_rules_against_the_responder_is_told(text: str, said: str, tmp_path: Path) -> None:
    """Such settings are possible, and each comes with one warning that says what follows."""
    (warning,) = read(tmp_path, text).warnings
    assert said in warning


def test_what_the_warnings_say_of_the_responder_is_true() -> None:
    """Its own numbers are those of the messages, and two evaluations fit into the age that it accepts."""
    assert (fleet.ANOMALY_PERCENT, fleet.CORRELATED) == (20, 3)
    assert LONGEST_INTERVAL * 2 <= FRESH
    thresholds = load_catalogue().thresholds
    assert thresholds["fleet_anomaly_ratio"].value * 100 == fleet.ANOMALY_PERCENT
    assert thresholds["correlation_nodes"].value == fleet.CORRELATED
