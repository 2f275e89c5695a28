"""Every example that people would copy works: README snippets, action docstrings, the demo's policy."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
import yaml

from gpuheal_responder.actions import REGISTRY, SPECS
from gpuheal_responder.config.policies import parse_policies
from gpuheal_responder.config.settings import load
from gpuheal_responder.shell.policies import fault_slugs, read_policies

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def snippet(name: str) -> str:
    """Return the YAML block of the README after `<!-- test: NAME -->`."""
    found = re.search(rf"<!-- test: {name} -->\n( *)```yaml\n(.*?)\n *```", README, re.DOTALL)
    assert found, f"README.md has no block marked {name}"
    indent = len(found.group(1))
    return "\n".join(line[indent:] for line in found.group(2).splitlines()) + "\n"


def test_the_readme_settings_are_settings(tmp_path: Path) -> None:
    """The settings of the README are read strictly and without a complaint."""
    file = tmp_path / "settings.yaml"
    file.write_text(snippet("settings"))
    assert load(file).cluster == "prod-1"


def test_the_readme_policy_is_a_policy(tmp_path: Path) -> None:
    """The policy of the README is read strictly, against the real catalogue."""
    file = tmp_path / "policies.yaml"
    file.write_text(snippet("policies"))
    (policy,) = read_policies([file])
    assert policy.steps[0].action == "taint"
    assert policy.steps[-1].action == "restore"


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_an_actions_docstring_example_is_a_policy(name: str) -> None:
    """The example in an action's docstring is a list of steps that a policy may have, the action among them."""
    text = importlib.import_module(f"gpuheal_responder.actions.{name}").__doc__ or ""
    found = re.search(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert found, f"actions/{name}.py shows no example"
    steps = yaml.safe_load(found.group(1))["steps"]
    raw = {"policies": [{"name": "p", "match": {"faults": ["gpu-fell-off-bus"]}, "steps": steps}]}
    (policy,) = parse_policies(raw, file=name, actions=SPECS, faults=fault_slugs())
    assert name in {s.action for s in policy.steps}


def test_the_demo_policy_is_a_policy() -> None:
    """The demo's policy file is one that a site could use."""
    assert read_policies([ROOT / "deploy" / "lab" / "gpuheal_lab" / "demo" / "demo-policy.yaml"])


def test_every_right_an_action_needs_is_in_the_manifests() -> None:
    """The responder's roles hold at least what the registry asks for."""
    granted: set[tuple[str, str, str]] = set()
    for document in yaml.safe_load_all((ROOT / "deploy" / "kustomize" / "base" / "rbac.yaml").read_text()):
        if document["kind"] in {"ClusterRole", "Role"}:
            for rule in document.get("rules") or ():
                for group in rule.get("apiGroups", ()):
                    granted |= {(group, r, v) for r in rule.get("resources", ()) for v in rule["verbs"]}
    needed = {(r.group, kind, v) for a in REGISTRY.values() for r in a.rbac for kind in r.resources for v in r.verbs}
    assert needed <= granted


@pytest.mark.parametrize(
    "file",
    sorted(
        p.relative_to(ROOT).as_posix()
        for p in ROOT.glob("**/README.md")
        if not {".venv", "node_modules"} & set(p.parts)
    ),
)
def test_links_in_readmes_lead_somewhere(file: str) -> None:
    """Every relative link of a README names a file or folder that exists."""
    text = (ROOT / file).read_text()
    for target in re.findall(r"\]\((?!https?://|#|mailto:)([^)#]+)", text):
        assert (ROOT / file).parent.joinpath(target).exists(), f"{file} links to {target}"
