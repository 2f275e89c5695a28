"""servers.yaml, read as data."""

from __future__ import annotations

import itertools

import pytest

from gpuheal_lab.servers.gobuild import go_mod
from gpuheal_lab.servers.spec import Generation, Version, load

CATALOG = load()


@pytest.mark.parametrize("name", list(CATALOG.servers))
def test_a_pinned_build_is_of_the_current_generation(name: str) -> None:
    """What Go builds, and what each image tag names, lies in the span of its generation."""
    spec = CATALOG.spec(name)
    if spec.go is not None:
        assert Version.parse(spec.go_version) in spec.generations[Generation.CURRENT]
        assert spec.go.module.reason
    if spec.docker is not None:
        for generation, tag in spec.docker.tags.items():
            assert Version.parse(tag) in spec.generations[generation]


@pytest.mark.parametrize("name", list(CATALOG.servers))
def test_generations_do_not_overlap(name: str) -> None:
    """No version belongs to two generations."""
    spans = CATALOG.spec(name).generations.values()
    for one, other in itertools.combinations(spans, 2):
        assert one.below <= other.at_least or other.below <= one.at_least


def test_prometheus_module_version_reads_as_its_release() -> None:
    """Module v0.313.5 is Prometheus 3.13.5, and go.mod still asks for the module's number."""
    spec = CATALOG.spec("prometheus")
    assert spec.go is not None
    assert (spec.go_version, spec.go.module.version) == ("3.13.5", "v0.313.5")


def test_versions_compare_by_number() -> None:
    """3.9 is older than 3.13, a missing part counts as 0, and a leading v is no part of the number."""
    assert Version.parse("3.9") < Version.parse("v3.13.0") < Version.parse("3.13.5")


def test_go_mod_takes_staging_modules_at_their_own_version() -> None:
    """Kubernetes' go.mod replaces each staging module, raises what is listed, and pins Go's behaviour."""
    spec = CATALOG.spec("kube-apiserver")
    assert spec.go is not None
    text = go_mod(spec.go.module, ["k8s.io/api", "k8s.io/client-go"])
    assert text.splitlines() == [
        "module gpuheal.invalid/build",
        "",
        "go 1.26",
        "",
        "godebug default=go1.26",
        "",
        "require k8s.io/kubernetes v1.36.1",
        "require go.etcd.io/etcd/client/pkg/v3 v3.6.12",
        "replace k8s.io/api => k8s.io/api v0.36.1",
        "replace k8s.io/client-go => k8s.io/client-go v0.36.1",
    ]
