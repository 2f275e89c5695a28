"""Everything of the responder that a stranger, another server or a broken disk can reach, fed with damaged input.

`python -m tests.responder.fuzz 1000000` runs so many cases from a random seed and prints the figure; the suite runs
10,000. A case fails if anything but the documented errors is raised, if it takes a second of CPU, or if what was read
cannot be used afterwards: stored, judged, replayed.
"""

from __future__ import annotations

import copy
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from gpuheal_responder.actions import SPECS
from gpuheal_responder.commands import explain
from gpuheal_responder.config.policies import parse_policies
from gpuheal_responder.config.reader import load_yaml
from gpuheal_responder.config.settings import load
from gpuheal_responder.core.alert import Alert, Peer, Silence
from gpuheal_responder.core.case import Case
from gpuheal_responder.core.duration import parse_duration, people_duration
from gpuheal_responder.core.faults import MOST_FAULTS, fold
from gpuheal_responder.core.silence import silence_matches
from gpuheal_responder.errors import ConfigError, PayloadError, Permanent
from gpuheal_responder.shell.http.people import fields_of
from gpuheal_responder.shell.http.webhook import Unusable, understand
from gpuheal_responder.shell.process.reload import Tokens, read_secret
from gpuheal_responder.shell.record import dump_case, dump_world, load_case, load_world
from gpuheal_responder.shell.sources import alertmanager, series
from gpuheal_responder.shell.sources.client import UNUSABLE

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
LONGEST_CASE_S = 1.0
EXPLAIN = Path(__file__).parent / "commands" / "data" / "explain"
FAULTS = frozenset({"gpu-fell-off-bus", "rack-correlated"})
JUNK: tuple[Any, ...] = (
    None, "", "x", -1, 0, 1e308, [], {}, True, "9" * 400, float("nan"), float("inf"), -float("inf"), 2**70, [[]],
    {"a": 1}, {"a": {}}, ["a", ["b"]], "\ud800", "a\nb\x00\x1b[2J", "x" * 5000, "0001-01-01T00:00:00+14:00",
    "9999-12-31T23:59:59-14:00", "2026-03-01T12:00:00", "2026-02-30T12:00:00Z", "n1", "1e999999999d", "{}", "null",
)  # fmt: skip
LABELS = {
    "alertname": "GPUFellOffBus", "fault": "gpu-fell-off-bus", "severity": "critical", "node": "n1", "cluster": "c",
    "gpu_uuid": "GPU-1", "xid": "79", "scope": "gpu", "rack": "r1",
}  # fmt: skip
WIDE = {"fault": "rack-correlated", "severity": "critical", "cluster": "c", "scope": "domain", "rack": "r1"}
WEBHOOK = {
    "version": "4", "groupKey": "{}:{}", "status": "firing", "truncatedAlerts": 0,
    "alerts": [{"status": "firing", "labels": LABELS}, {"status": "resolved", "labels": WIDE}],
}  # fmt: skip
STATUS = {"state": "suppressed", "silencedBy": ["s1"], "inhibitedBy": ["f2"], "mutedBy": ["night"]}
AT = "2026-03-01T11:50:00.123456789Z"
ALERTS = [
    {"fingerprint": f"f{n}", "labels": labels, "startsAt": AT, "updatedAt": AT, "status": STATUS}
    for n, labels in enumerate((LABELS, WIDE, {"alertname": "GPUHealWatchdog", "cluster": "c"}))
]
SILENCES = [
    {
        "id": "s1", "createdBy": "ada", "comment": "rack move", "status": {"state": "active"},
        "matchers": [
            {"name": "fault", "value": ".+", "isRegex": True, "isEqual": True},
            {"name": "node", "value": "n(1|2)*", "isRegex": True},
        ],
    }
]  # fmt: skip
HEALTH = {"uptime": AT, "cluster": {"status": "ready"}}
WITNESS = {"node": "n1", "gpu_uuid": "GPU-1", "fault": "gpu-fell-off-bus", "class": "kernel", "source": "nvml"}
VECTOR = {
    "status": "success",
    "data": {"resultType": "vector", "result": [{"metric": WITNESS, "value": [1772366400.0, "1772366000"]}]},
}
MATRIX = {
    "status": "success",
    "data": {"resultType": "matrix", "result": [{"metric": WITNESS, "values": [[1772366400.0, "0"], [1.5, "4"]]}]},
}
TIME = {"status": "success", "data": {"resultType": "scalar", "result": [1772366400.123, "1772366400.123"]}}
POLICIES = {
    "policies": [
        {
            "name": "p", "mode": "enforce",
            "match": {
                "faults": ["gpu-fell-off-bus"],
                "nodes": {
                    "matchLabels": {"a": "b"},
                    "matchExpressions": [{"key": "k", "operator": "In", "values": ["x"]}],
                },
            },
            "limits": {"attempts": 1, "cooldown": "1h", "pool_percent": 5},
            "steps": [
                "taint", "condition", {"drain": {"deadline": "30m"}}, {"reboot": {"provider": "job"}},
                {"verify": {"evaluations": 4}}, {"probation": {"quiet": "30m"}}, "restore",
            ],
        }
    ]
}  # fmt: skip
SETTINGS = {
    "cluster": "prod-1", "policies": ["p.yaml"],
    "listen": {"port": 9940, "webhook_token_files": ["token"], "tls": {"cert_file": "c", "key_file": "k"}},
    "alertmanagers": [{"url": "http://am:9093", "resolve": True, "settle": "2m"}],
    "prometheus": {"url": "https://prom/x", "job": "p", "basic_auth": {"username": "u", "password_file": "w"}},
    "engine": {"tick": "15s", "mode": "propose", "cases": 8}, "kubernetes": {"page_size": 50, "timeout": "15s"},
    "budgets": {"pool": ["a"]}, "watchdog": {"interval": "1m", "url_file": "u"},
}  # fmt: skip
PERSON = {"step": "reboot", "evidence": "0123456789ab", "for": "1h", "reason": "rack work"}
ODD_YAML = (
    "&a [*a]", "? [a]\n: b", "!!python/object:os.system x", "!!binary '*'", "2026-13-45", "0x" + "f" * 5000,
    "1" * 5000, "1:99:99", "<<: 1", "- *b", "%YAML 9.9", "\t", "!!timestamp x", "!!int ''", "{a: 1, a: 2}", ".nan",
    "!!set {a}", "!!omap [a]", "\ufffe", "[" * 2000, "!!float ''", "'\\ud800'", '"\\ud800"', "!!bool x", "--- a\n--- b",
)  # fmt: skip
PIECES = (b"\x00", b"\xff", b"{", b"[", b"]", b"}", b'"', b"\\", b"\\ud800", b"1e999", b":", b",", b"\n", b"NaN", b"'")


def leaves(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of every value in a document, the document itself first."""
    listed = enumerate(document) if isinstance(document, list) else ()
    below = document.items() if isinstance(document, dict) else listed
    return [path, *(deeper for key, value in below for deeper in leaves(value, (*path, key)))]


class Fuzz:
    """Cases of one seed; `counts` says how many of each kind were run, `refused` how many of them were refused."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.random = random.Random(seed)
        self.folder = folder
        self.counts: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.world = yaml.safe_load((EXPLAIN / "world.yaml").read_text(encoding="utf-8"))
        record = Case(name="x", node="n1", policy="p", opened_at=NOW, faults=self._faults(ALERTS))
        self.case = dump_case(record)
        self.kinds: dict[str, tuple[Callable[[], None], tuple[type[BaseException], ...]]] = {
            "webhook": (self.webhook, (PayloadError, Unusable)),
            "alerts": (self.alerts, UNUSABLE),
            "silences": (self.silences, UNUSABLE),
            "status": (self.status, UNUSABLE),
            "series": (self.series, UNUSABLE),
            "evidence": (self.evidence, UNUSABLE),
            "person": (self.person, (Permanent,)),
            "secret": (self.secret, (ConfigError,)),
            "duration": (self.duration, (ValueError,)),
            "policies": (self.policies, (ConfigError,)),
            "settings": (self.settings, (ConfigError,)),
            "explained alerts": (self.explained, (ConfigError,)),
            "explained world": (self.explained_world, (ConfigError,)),
            "stored case": (self.stored, (ConfigError,)),
        }
        self.slow = {"policies", "settings", "explained world", "stored case", "secret", "explained alerts"}

    def run(self, cases: int) -> None:
        """Run so many cases, the slow kinds less often; AssertionError tells the kind and the seed's step."""
        names = [name for name in self.kinds for _ in range(1 if name in self.slow else 20)]
        for number in range(cases):
            name = list(self.kinds)[number] if number < len(self.kinds) else self.random.choice(names)
            run, allowed = self.kinds[name]
            began = time.process_time()
            self.counts[name] += 1
            try:
                run()
            except allowed:
                self.refused[name] += 1
            except Exception as problem:
                raise AssertionError(f"case {number}, {name}: {type(problem).__name__}: {problem}") from problem
            spent = time.process_time() - began
            assert spent < LONGEST_CASE_S, f"case {number}, {name}: {spent:.1f} s"

    def damaged(self, document: Any) -> Any:
        """Return the document with up to four values exchanged, removed, doubled or moved."""
        found = copy.deepcopy(document)
        for _ in range(self.random.randrange(5)):
            path = self.random.choice(leaves(found))
            if not path:
                found = copy.deepcopy(self.random.choice(JUNK)) if self.random.random() < 0.1 else found
                continue
            at = found
            for key in path[:-1]:
                at = at[key]
            match self.random.randrange(5):
                case 0:
                    del at[path[-1]]
                case 1 if isinstance(at, dict):
                    at[self.random.choice(("x", "", "\ud800", "node", "a" * 5000))] = at[path[-1]]
                case 2 if isinstance(at, list):
                    at.extend(copy.deepcopy(at) * self.random.choice((1, 2, 40)))
                    del at[2000:]
                case _:
                    at[path[-1]] = copy.deepcopy(self.random.choice(JUNK))
        return found

    def bytes_of(self, document: Any) -> bytes:
        """Return a damaged document as JSON; one in ten has damaged bytes as well."""
        text = json.dumps(self.damaged(document)).encode()
        return self.broken(text) if self.random.random() < 0.1 else text

    def broken(self, text: bytes) -> bytes:
        """Return the bytes cut, with a piece of themselves or of somebody else's inside, or nested deeply."""
        at, to = (self.random.randrange(len(text) + 1) for _ in range(2))
        match self.random.randrange(5):
            case 0:
                return text[:at]
            case 1:
                return text[:at] + self.random.choice(PIECES) * self.random.choice((1, 1, 3000)) + text[at:]
            case 2:
                return text[:at] + text[to:]
            case 3:
                return text[:at] + self.random.randbytes(3) + text[at:]
        return text[:at] + text[min(at, to) : max(at, to)] + text[at:]

    def yaml_of(self, document: Any) -> Path:
        """Write a damaged document as YAML; one in four has damaged bytes or an odd value as well."""
        text = yaml.safe_dump(self.damaged(document), allow_unicode=False).encode(errors="replace")
        if self.random.random() < 0.15:
            text = self.broken(text)
        elif self.random.random() < 0.15:
            lines = text.decode(errors="replace").splitlines()
            at = self.random.randrange(len(lines) + 1)
            text = "\n".join([*lines[:at], self.random.choice(ODD_YAML), *lines[at:]]).encode(errors="surrogatepass")
        return self.write(text)

    def write(self, content: bytes) -> Path:
        """Write the file that is read next."""
        path = self.folder / "file"
        path.write_bytes(content)
        return path

    def webhook(self) -> None:
        """The body of a delivery."""
        understand(self.bytes_of(WEBHOOK))

    def alerts(self) -> None:
        """Alertmanager's list, folded into faults that can be stored and read back."""
        self._judge(alertmanager._alerts(self.bytes_of(ALERTS)))

    def _judge(self, alerts: tuple[Alert, ...], silences: tuple[Silence, ...] = ()) -> None:
        peers = [Peer(name="am", answered=True, alerts=alerts, silences=silences), Peer(name="b", answered=True)]
        cluster = self.random.choice(("c", ""))
        intake = fold(peers, cluster=cluster, known_faults=FAULTS, known_nodes={"n1"})
        assert intake.faults.keys() <= {"n1"}
        faults = intake.faults.get("n1", ())
        assert len(faults) <= MOST_FAULTS
        case = Case(name="x", node="n1", policy="p", opened_at=NOW, faults=faults)
        text = json.dumps(dump_case(case))
        assert load_case(json.loads(text)) == case
        assert len(text) < 4096 * (1 + len(faults))
        for letter in intake.dead:
            assert (letter.alertname + letter.detail + letter.fingerprint).isprintable()
            assert len(letter.alertname + letter.detail + letter.fingerprint) < 2000
        for incident in intake.wide:
            assert all(text.isprintable() for text in incident.labels.values())

    def _faults(self, raw: Any) -> Any:
        alerts = alertmanager._alerts(json.dumps(raw).encode())
        peer = Peer(name="am", answered=True, alerts=alerts)
        return fold([peer], cluster="c", known_faults=FAULTS, known_nodes={"n1"}).faults["n1"]

    def silences(self) -> None:
        """Alertmanager's silences, matched."""
        for silence in (found := alertmanager._silences(self.bytes_of(SILENCES))):
            assert isinstance(silence_matches(silence, LABELS), bool)
            assert (silence.created_by + silence.comment).isprintable()
        self._judge(alertmanager._alerts(json.dumps(ALERTS).encode()), found)

    def status(self) -> None:
        """Alertmanager's own state: how long it runs can be told."""
        started_at, cluster = alertmanager._status(self.bytes_of(HEALTH))
        assert isinstance(NOW - started_at, type(NOW - NOW))
        assert isinstance(cluster, str)

    def series(self) -> None:
        """One answer of Prometheus."""
        match self.random.randrange(3):
            case 0:
                assert isinstance(series.moment_of(series.data_of(self.bytes_of(TIME))), float)
            case 1:
                series.told_of(series.series_of(self.bytes_of(VECTOR)))
            case _:
                series.series_of(self.bytes_of(self.random.choice((VECTOR, MATRIX))))

    def evidence(self) -> None:
        """All answers of a look, folded into evidence that can be stored."""
        answers = [VECTOR, VECTOR, VECTOR, VECTOR, VECTOR, MATRIX]
        odd = self.random.choice((0.0, 0.1, 0.3))
        given = [self.damaged(answer) if self.random.random() < odd else answer for answer in answers]
        found = [series.series_of(json.dumps(answer).encode()) for answer in given]
        if self.random.random() < 0.2:
            self.random.shuffle(found)
        evidence, ignored = series.folded(found, 1, NOW, {"n1"})
        assert "n1" in evidence
        assert all(isinstance(reason, str) for reason in ignored)
        world = load_world(self.world)
        for one in evidence.values():
            dumped = json.dumps(dump_world(type(world)(now=NOW, node=world.node, evidence=one)))
            assert load_world(json.loads(dumped)).evidence == one

    def person(self) -> None:
        """What a person asks for."""
        fields = fields_of(self.bytes_of(PERSON))
        assert all(value.isprintable() for value in fields.values())

    def secret(self) -> None:
        """Token files."""
        content = self.broken(b"secret-token\n") if self.random.random() < 0.5 else self.random.randbytes(9)
        path = self.write(content)
        token = read_secret(path)
        assert token
        assert Tokens([path], lambda _: None).admit(token)

    def duration(self) -> None:
        """Spans of time."""
        odd = ("9" * 30, " ", "-", ".", "e", "٣", "")
        parts = [self.random.choice(odd if self.random.random() < 0.1 else ("1", "90", "007")) for _ in range(4)]
        units = self.random.choices(("s", "m", "h", "d", "ms", "day", "min", "s"), k=4)
        span = parse_duration("".join(f"{part}{unit}" for part, unit in zip(parts, units, strict=True)))
        assert people_duration(span)

    def policies(self) -> None:
        """Policy files."""
        path = self.yaml_of(POLICIES)
        assert parse_policies(load_yaml(path), file=str(path), actions=SPECS, faults=FAULTS)

    def settings(self) -> None:
        """Settings files."""
        assert load(self.yaml_of(SETTINGS)).policies

    def explained(self) -> None:
        """Alerts that a person gives to explain."""
        document: Any = self.random.choice((ALERTS, ALERTS[0], WEBHOOK))
        self._judge(tuple(explain.read_alerts(self.write(self.bytes_of(document)), NOW)))

    def explained_world(self) -> None:
        """A world that a person gives to explain."""
        path = self.yaml_of(self.world)
        json.dumps(dump_world(load_world(load_yaml(path), str(path))))

    def stored(self) -> None:
        """A case as it stands in the store, damaged by whoever may write there."""
        json.dumps(dump_case(load_case(self.damaged(self.case))))


def main(argv: list[str]) -> int:
    """Run so many cases of a random seed, or of the seed given; print the figures."""
    cases, seed = int(argv[0]), int(argv[1]) if len(argv) > 1 else random.randrange(2**32)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        fuzz = Fuzz(seed, Path(folder))
        try:
            fuzz.run(cases)
        finally:
            done = {name: f"{fuzz.counts[name]:,} ({fuzz.refused[name]:,} refused)" for name in fuzz.kinds}
            print(f"seed {seed}: {sum(fuzz.counts.values()):,} cases in {time.monotonic() - began:.0f} s")
            print("\n".join(f"  {name:<18} {said}" for name, said in done.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
