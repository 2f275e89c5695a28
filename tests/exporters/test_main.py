"""The exporter as a process: what an operator starts, stops and reads."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from gpuheal_exporters.daemon import ways
from gpuheal_exporters.main import main
from gpuheal_exporters.options import build_parser, parse_options

REPOSITORY = Path(__file__).parents[2]
PCI, UUID = "0000:3b:00", "GPU-1"
HEAD = f"NVRM: Xid (PCI:{PCI}): "


class Host:
    """A made-up root: /proc of one boot, a kernel log that is a file, an inventory, a token."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.log = root / "kmsg"
        self.log.write_text("")
        (root / "proc/sys/kernel/random").mkdir(parents=True)
        (root / "proc/stat").write_text("cpu 1 2 3\nbtime 1700000000\n")
        self.boot("boot-1")
        (root / "gpus.json").write_text(json.dumps([{"gpu_uuid": UUID, "pci_bus_id": PCI}]))
        (root / "token").write_text("secret")
        self.seq = 0

    def boot(self, boot_id: str) -> None:
        (self.root / "proc/sys/kernel/random/boot_id").write_text(boot_id + "\n")

    def write(self, *texts: str, prio: int = 4) -> None:
        with self.log.open("a") as out:
            for text in texts:
                self.seq += 1
                out.write(f"{prio},{self.seq},1000000,-;{text}\n")

    def arguments(self, *more: str) -> list[str]:
        options = {
            "--root": self.root,
            "--kmsg": self.log,
            "--inventory": self.root / "gpus.json",
            "--state-dir": self.root / "state",
            "--token-file": self.root / "token",
        }
        return [text for name, value in options.items() for text in (name, str(value))] + ["--no-nvml", *more]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def run(arguments: Sequence[str], stdin: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "exporters")}
    command = [sys.executable, "-m", "gpuheal_exporters", *arguments]
    return subprocess.run(
        command, input=stdin, capture_output=True, text=True, timeout=60, env=environment, check=False
    )


class Running:
    """A serving exporter process."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        environment = environment or {**os.environ, "PYTHONPATH": str(REPOSITORY / "exporters")}
        command = [sys.executable, "-m", "gpuheal_exporters", "--listen-address", f"127.0.0.1:{self.port}", *arguments]
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment)
        self.until(lambda: self.get("/healthz") is not None)

    def get(self, path: str, body: object = None) -> str | None:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}")
        request.add_header("Authorization", "Bearer secret")
        if body is not None:
            request.data = json.dumps(body).encode()
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                text: str = answer.read().decode()
                return text
        except (urllib.error.URLError, ConnectionError):
            return None

    def value(self, sample: str) -> float | None:
        for line in (self.get("/metrics") or "").splitlines():
            name, _, value = line.rpartition(" ")
            if name == sample:
                return float(value)
        return None

    def until(self, condition: Callable[[], bool], seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "waited too long"
            assert self.process.poll() is None, "the exporter ended"
            time.sleep(0.05)

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(timeout=20)


@pytest.fixture
def start(host: Host) -> Iterator[Callable[..., Running]]:
    started: list[Running] = []

    def begin(*more: str) -> Running:
        started.append(Running(host.arguments(*more)))
        return started[-1]

    yield begin
    for running in started:
        if running.process.poll() is None:
            running.stop(signal.SIGKILL)


def total(code: int) -> str:
    return f'gpuheal_xid_total{{gpu_uuid="{UUID}",pci_bus_id="{PCI}",xid="{code}"}}'


def test_the_exporter_serves_keeps_and_forgets(host: Host, start: Callable[..., Running]) -> None:
    """From the first line to an acknowledgement, a clean stop, a kill, a restart and a reboot of the node."""
    host.write(HEAD + "79, GPU has fallen off the bus.")
    latched = total(79).replace("_total", "_latched")
    first = start()
    first.until(lambda: first.value(total(79)) == 1)
    host.write(HEAD + "79, again", HEAD + "45, pid=1, name=p, Ch 00000001")
    first.until(lambda: first.value(total(79)) == 2)
    assert first.value(latched) == 1
    assert json.loads(first.get("/events") or "")["events"][0]["code"] == "79"
    assert json.loads(first.get("/v1/acknowledge", {"until": time.time(), "xid": 79}) or "")["cleared"] == 1
    assert first.value(latched) == 0
    assert first.stop() == 0
    second = start()
    second.until(lambda: second.value(total(45)) == 1)
    assert (second.value(total(79)), second.value(latched)) == (2, 0)
    host.write(HEAD + "79, once more")
    second.until(lambda: second.value(latched) == 1)
    second.until(lambda: (host.root / "state/kernel.json").read_text().count('"79"') > 0)
    second.stop(signal.SIGKILL)
    third = start()
    third.until(lambda: third.value(total(79)) == 3)
    assert third.stop() == 0
    host.boot("boot-2")
    fourth = start()
    assert fourth.value('gpuheal_node_boot_info{boot_id="boot-2"}') == 1
    assert fourth.value(total(79)) is None


def test_only_a_drill_believes_user_space(host: Host, start: Callable[..., Running]) -> None:
    """The same record is foreign to a normal exporter and counts in a drill, which says that it is one."""
    host.write(HEAD + "79, GPU has fallen off the bus.", prio=12)
    normal = start()
    normal.until(lambda: normal.value("gpuheal_kmsg_foreign_records_total") == 1)
    assert normal.value(total(79)) is None
    assert normal.value("gpuheal_exporter_drill") == 0
    normal.stop()
    (host.root / "state/kernel.json").unlink()
    drill = start("--drill")
    drill.until(lambda: drill.value(total(79)) == 1)
    assert drill.value("gpuheal_exporter_drill") == 1


def test_once_prints_and_leaves_nothing(host: Host) -> None:
    """One complete scrape on standard output; the state directory is not touched."""
    host.write(HEAD + "79, GPU has fallen off the bus.")
    done = run(host.arguments("--once"))
    assert done.returncode == 0
    assert f"{total(79)} 1.0" in done.stdout.splitlines()
    assert "gpuheal_kmsg_up 1.0" in done.stdout.splitlines()
    assert not (host.root / "state").exists()


def test_without_kernel_log_and_nvml_it_says_so(host: Host) -> None:
    """No rights, no driver: both sources are down as metrics, and the command still succeeds."""
    host.log.unlink()
    done = run(host.arguments("--once"))
    assert done.returncode == 0
    for line in ("gpuheal_kmsg_up 0.0", 'gpuheal_kmsg_source_info{source="none"} 1.0', "gpuheal_nvml_up 0.0"):
        assert line in done.stdout.splitlines()


def test_asking_for_nvml_without_a_driver_names_the_reason(host: Host) -> None:
    """With NVML asked for on a machine without its library the exporter runs on the kernel log alone."""
    host.write(HEAD + "79, GPU has fallen off the bus.")
    arguments = [text for text in host.arguments("--once") if text != "--no-nvml"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "exporters"), "LD_LIBRARY_PATH": str(host.root)}
    command = [sys.executable, "-m", "gpuheal_exporters", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)
    assert done.returncode == 0
    assert "gpuheal_nvml_up 0.0" in done.stdout.splitlines()
    assert 'gpuheal_nvml_state_info{state="library-missing"} 1.0' in done.stdout.splitlines()
    assert f"{total(79)} 1.0" in done.stdout.splitlines()


def parsed(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines()]


def test_parse_reads_files_and_standard_input(host: Host) -> None:
    """Both give one object per recognised line, with its number."""
    text = f"boring\n[ 1.000000] {HEAD}79, gone\n"
    (host.root / "dmesg").write_text(text)
    for done in (run(["--parse", str(host.root / "dmesg")]), run(["--parse", "-"], text)):
        (found,) = parsed(done.stdout)
        assert (found["line"], found["kind"], found["xid"], found["pci"]) == (2, "xid", 79, PCI)


def test_parse_takes_any_bytes_and_a_reader_that_leaves() -> None:
    """Bytes that are not UTF-8 are no error, and neither is a reader such as `head` that closes the pipe."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "exporters")}
    command = [sys.executable, "-m", "gpuheal_exporters", "--parse", "-"]
    line = HEAD.encode() + b"43, pid=7, name=\xff\xfe, Ch 00000018\n"
    done = subprocess.run(command, input=line, capture_output=True, timeout=60, env=environment)
    assert (done.returncode, json.loads(done.stdout)["pid"]) == (0, 7)
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        with contextlib.suppress(BrokenPipeError):  # it may be gone before it has read everything
            process.stdin.write(line * 10_000)
            process.stdin.close()
        assert (process.wait(timeout=60), process.stderr.read()) == (0, b"")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (HEAD.encode("utf-16"), "UTF-16"),
        (HEAD.encode("utf-16-be"), "UTF-16"),
        (gzip.compress(HEAD.encode(), mtime=0), "gzip"),
        (b"\xfd7zXZ\0", "xz"),
        (b"LPKSHHRH\0", "journal"),
    ],
)
def test_parse_refuses_what_is_no_text(
    content: bytes, what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A log that is compressed, UTF-16 or a journal is refused with what to do, and never looks like a clean one."""
    (tmp_path / "log").write_bytes(content)
    assert main(["--parse", str(tmp_path / "log")]) == 2
    assert f"log: this is {what}" in capsys.readouterr().err.replace("a journal", "journal")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--listen-address", "9845"], "expected HOST:PORT"),
        (["--listen-address", "localhost:99999"], "expected HOST:PORT"),
        (["--inventory", "missing.json", "--once"], "missing.json: cannot be read"),
        (["--parse", "missing.log"], "missing.log: No such file"),
        (["--state-dir", "/dev/null/x"], "/dev/null/x: cannot be created"),
    ],
)
def test_a_wrong_option_ends_with_status_two(arguments: list[str], problem: str) -> None:
    """The error names the option or file and what is wrong with it."""
    done = run(arguments)
    assert done.returncode == 2
    assert problem in done.stderr
    assert "Traceback" not in done.stderr


def test_a_taken_address_ends_with_status_one(host: Host) -> None:
    """The address is named; nothing else keeps running."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = run(host.arguments("--listen-address", address))
    assert done.returncode == 1
    assert address in done.stderr


def test_help_loads_nothing_heavy() -> None:
    """--help is answered before any of the exporter's machinery is imported."""
    code = (
        "import sys\nfrom gpuheal_exporters.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "assert not {'prometheus_client', 'pynvml', 'yaml'} & set(sys.modules), 'heavy imports'\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "exporters")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == 0, done.stderr
    assert "usage: gpuheal exporter" in done.stdout


def test_main_is_a_function_of_its_arguments(capsys: pytest.CaptureFixture[str], host: Host) -> None:
    """The dispatcher of `gpuheal` calls it with the arguments alone and gets the exit status."""
    (host.root / "log").write_text(HEAD + "46\n")
    assert main(["--parse", str(host.root / "log")]) == 0
    assert parsed(capsys.readouterr().out)[0]["xid"] == 46


@pytest.mark.parametrize(
    ("text", "host_name", "port"), [("127.0.0.1:0", "127.0.0.1", 0), ("[::1]:9845", "::1", 9845), (":9845", "", 9845)]
)
def test_listen_addresses_are_split(text: str, host_name: str, port: int) -> None:
    """IPv4, bracketed IPv6 and all interfaces."""
    options = parse_options(["--listen-address", text])
    assert (options.host, options.port) == (host_name, port)


def test_every_option_is_explained() -> None:
    """Each option has a help text."""
    assert all(action.help for action in build_parser()._actions)


def test_the_log_file_serves_where_the_device_is_not_there(host: Host) -> None:
    """Below another root the kernel's log file comes after the device; the journal of this machine is left alone."""
    host.log.unlink()
    (host.root / "var/log").mkdir(parents=True)
    (host.root / "var/log/kern.log").write_text(f"Nov 22 14:56:44 h kernel: [94555.573310] {HEAD}79, gone\n")
    lines = run(host.arguments("--once")).stdout.splitlines()
    assert 'gpuheal_kmsg_source_info{source="file"} 1.0' in lines
    assert f"{total(79)} 1.0" in lines


@pytest.mark.parametrize(
    ("arguments", "order"),
    [
        ([], ["kmsg", "journal", "file"]),
        (["--root", "/host"], ["kmsg", "file"]),
        (["--kmsg", "/tmp/fifo"], ["kmsg", "file"]),
        (["--source", "journal"], ["journal"]),
        (["--source", "file"], ["file"]),
    ],
)
def test_sources_are_tried_in_order(arguments: list[str], order: list[str]) -> None:
    """The device first, then this machine's journal, then its log file; or only what was asked for."""
    assert [name for name, _ in ways(parse_options(arguments))] == order
