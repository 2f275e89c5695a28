"""Admission policies: what roles cannot say about our own account, and about people who approve.

Roles say which resources may be written; these say how. Our account writes the status of cases and nobody else does; an
approval is in the name of whoever asks; of a node only our own marks are changed; and the one privileged thing that we
may create is the reboot Job of our template. So whoever takes over the responder has a reboot of GPU nodes at most.
They are enforced by the API server (ValidatingAdmissionPolicy, since Kubernetes 1.30), and fail closed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from gpuheal_responder.actions import SPECS
from gpuheal_responder.core.case import LONGEST_APPROVAL
from gpuheal_responder.core.duration import people_duration
from gpuheal_responder.core.node import Node
from gpuheal_responder.providers.job import PREFIX, JobSettings, manifest
from gpuheal_responder.shell.kube.histories import PREFIX as HISTORIES
from gpuheal_responder.shell.kube.remediations import GROUP, PLURAL
from gpuheal_responder.shell.kube.roles import ACCOUNT, DEFAULT, Place

Json = dict[str, Any]

KEYS = f"{GROUP}/"
CONDITIONS = "^(GPU|NVLink)[A-Za-z]*Healthy$"
"""Types of node conditions that are ours to write; a test holds the actions to it."""
EVIDENCE = "^[0-9a-f]{12}$"
LONGEST_YES = int(LONGEST_APPROVAL.total_seconds())
DIGEST = "^[^@\\\\s]+@sha256:[0-9a-f]{64}$"
LONGEST = int(timedelta(hours=1).total_seconds())
"""No reboot may be asked for further ahead; as long as the provider's settings allow."""
IMAGE_PARAMETER = "gpuheal-reboot-image"

Checks = Sequence[tuple[str, str]]
"""CEL expressions that have to be true, each with what is said if it is not."""


def documents(installed: Place = DEFAULT) -> Iterator[tuple[str, Json]]:
    """Yield policies and bindings, each with the comment that stands above it."""
    ours = f"request.userInfo.username == {json.dumps(f'system:serviceaccount:{installed.namespace}:{ACCOUNT}')}"
    yield from _pair(
        "gpuheal-cases",
        "Approvals are in the requester's own name; only the responder writes the status, and it cannot approve.",
        rules=[_rule(GROUP, [PLURAL, f"{PLURAL}/status"], ["CREATE", "UPDATE"])],
        variables={"ours": ours, **_CASE_VARIABLES},
        checks=_CASES,
    )
    yield from _pair(
        "gpuheal-node-marks",
        f"On nodes the responder may change taints, labels and annotations of {KEYS}, the cordon and its conditions.",
        rules=[_rule("", ["nodes", "nodes/status"], ["CREATE", "UPDATE"])],
        variables=_NODE_VARIABLES,
        checks=_nodes(),
        only=ours,
    )
    yield from _pair(
        "gpuheal-reboot-jobs",
        "The only privileged object that the responder may create is the reboot Job of the template.",
        rules=[_rule("batch", ["jobs"], ["CREATE", "UPDATE"])],
        variables=_JOB_VARIABLES,
        checks=_jobs(installed.privileged),
        only=ours,
    )
    yield from _pair(
        "gpuheal-histories",
        "The responder may write machine histories, but not the settings and controls in the same namespace.",
        rules=[_rule("", ["configmaps"], ["CREATE", "UPDATE"])],
        variables={},
        checks=[
            (
                f"request.namespace == '{installed.namespace}' && object.metadata.name.startsWith('{HISTORIES}-')",
                f"the responder may write only ConfigMaps named {HISTORIES}-… in {installed.namespace}",
            )
        ],
        only=ours,
    )
    yield from _pair(
        IMAGE_PARAMETER,
        f"With ConfigMap {IMAGE_PARAMETER} (key image) in {installed.privileged} only that image,"
        " otherwise any by digest.",
        rules=[_rule("batch", ["jobs"], ["CREATE", "UPDATE"])],
        variables={},
        checks=[
            (
                "object.spec.template.spec.containers.all(c, c.image == params.data.image)",
                f"the image differs from the one in ConfigMap {IMAGE_PARAMETER}",
            )
        ],
        only=ours,
        parameter={"name": IMAGE_PARAMETER, "namespace": installed.privileged},
    )


_CASE_VARIABLES = {
    "status": "request.?subResource.orValue('') == 'status'",
    "before": "oldObject != null ? oldObject.spec.?approvals.orValue([]) : []",
    "added": "object.spec.?approvals.orValue([]).filter(a, !variables.before.exists(b, b == a))",
}
_MAY_APPROVE = (
    f"authorizer.group('{GROUP}').resource('{PLURAL}').subresource('approve').name(object.metadata.name)"
    ".check('create').allowed()"
)
_CASES: Checks = [
    ("!variables.status || variables.ours", "only the responder may write the status"),
    (
        "!variables.ours || request.operation == 'CREATE' || variables.status",
        "the responder may not write the spec of a case",
    ),
    (
        "variables.status || variables.added.all(a, a.by == request.userInfo.username)",
        "approvals must be in the requester's own name",
    ),
    (
        f"variables.status || variables.added.size() == 0 || {_MAY_APPROVE}",
        f"approving requires permission to create {PLURAL}/approve",
    ),
    (
        f"variables.status || variables.added.all(a, a.evidence.matches('{EVIDENCE}'))",
        "an approval must contain its evidence: 12 hexadecimal digits, as shown with the proposal",
    ),
    (
        "variables.status || variables.added.all(a, timestamp(a.expiresAt)"
        f" - timestamp(has(a.givenAt) ? a.givenAt : object.spec.openedAt) <= duration('{LONGEST_YES}s'))",
        f"an approval is valid for at most {people_duration(LONGEST_APPROVAL)} from when it was given,"
        " or from the case's opening if it does not say when",
    ),
]

_NODE_VARIABLES = {
    "taintsBefore": "oldObject.spec.?taints.orValue([])",
    "taintsNow": "object.spec.?taints.orValue([])",
    "annotationsBefore": "oldObject.metadata.?annotations.orValue({})",
    "annotationsNow": "object.metadata.?annotations.orValue({})",
    "labelsBefore": "oldObject.metadata.?labels.orValue({})",
    "labelsNow": "object.metadata.?labels.orValue({})",
    "conditionsBefore": "oldObject.status.?conditions.orValue([])",
    "conditionsNow": "object.status.?conditions.orValue([])",
}


def _nodes() -> Checks:
    spec = ("podCIDR", "podCIDRs", "providerID", "configSource", "externalID")
    status = ("capacity", "allocatable", "addresses", "nodeInfo", "daemonEndpoints", "images", "phase", "config")
    attached = ("volumesInUse", "volumesAttached")
    foreign = f"filter(t, !t.key.startsWith('{KEYS}'))"
    others = f"filter(c, !c.type.matches('{CONDITIONS}'))"
    pausing = sorted({label for spec in SPECS.values() for label in spec.pauses})
    return [
        ("request.operation == 'UPDATE'", "the responder may not create nodes"),
        (
            f"variables.taintsNow.{foreign} == variables.taintsBefore.{foreign}",
            f"the responder may change only taints of {KEYS}",
        ),
        (_kept("annotations"), f"the responder may change only annotations of {KEYS}"),
        (_kept("labels", pausing), f"the responder may change only labels {', '.join((f'of {KEYS}', *pausing))}"),
        (_same("metadata", ("finalizers", "ownerReferences")), "the responder may not change finalizers or owners"),
        (_same("spec", spec), "in a node's spec the responder may change only taints and unschedulable"),
        (_same("status", (*status, *attached)), "in a node's status the responder may change only conditions"),
        (
            f"variables.conditionsNow.{others} == variables.conditionsBefore.{others}",
            "the responder may change only its own conditions",
        ),
    ]


def _kept(what: str, but: Sequence[str] = ()) -> str:
    before, now = f"variables.{what}Before", f"variables.{what}Now"
    more = f" || (k in {json.dumps(list(but))} && k in {before})" if but else ""
    return (
        f"{now}.all(k, k.startsWith('{KEYS}'){more} || (k in {before} && {before}[k] == {now}[k]))"
        f" && {before}.all(k, k.startsWith('{KEYS}') || k in {now})"
    )


def _same(part: str, names: Sequence[str]) -> str:
    return " && ".join(f"object.{part}.?{name} == oldObject.{part}.?{name}" for name in names)


_JOB_VARIABLES = {
    "pod": "object.spec.template.spec",
    "container": "object.spec.template.spec.containers[0]",
    "env": "object.spec.template.spec.containers[0].?env.orValue([])",
    "asked": "variables.env.filter(e, e.name == 'ASKED_AT').map(e, e.?value.orValue(''))",
    "expires": "variables.env.filter(e, e.name == 'EXPIRES_AT').map(e, e.?value.orValue(''))",
}
_VALUES = {"BOOT_ID": "^[0-9A-Za-z-]{1,64}$", "ASKED_AT": "^[0-9]{1,12}$", "EXPIRES_AT": "^[0-9]{1,12}$"}
"""What the pod's shell gets to see; its names and values must not be able to say anything to it."""
_NOT_IN_POD = (
    "volumes",
    "initContainers",
    "ephemeralContainers",
    "imagePullSecrets",
    "runtimeClassName",
    "resourceClaims",
    "hostAliases",
)
_NOT_IN_CONTAINER = (
    "args",
    "envFrom",
    "volumeMounts",
    "volumeDevices",
    "lifecycle",
    "livenessProbe",
    "readinessProbe",
    "startupProbe",
    "ports",
    "workingDir",
)


def _jobs(namespace: str) -> Checks:
    """Return the shape of the template's Job; what is fixed is taken from the template itself."""
    shape = manifest(
        Node(name="node", uid="uid", boot_id="boot"),
        "operation",
        JobSettings(image="image@sha256:" + "0" * 64),
        datetime(2026, 1, 1, tzinfo=UTC),
    )
    pod = shape["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    names = [entry["name"] for entry in container["env"]]
    values = " && ".join(
        f"variables.env.filter(e, e.name == '{name}').all(e, e.?value.orValue('').matches('{pattern}'))"
        for name, pattern in _VALUES.items()
    )
    fixed = ("hostPID", "hostNetwork", "restartPolicy", "serviceAccountName", "automountServiceAccountToken")
    job = ("parallelism", "completions", "backoffLimit")
    return [
        ("request.operation == 'CREATE'", "the responder may not change Jobs"),
        (f"request.namespace == '{namespace}'", f"the responder may create Jobs only in {namespace}"),
        (f"object.metadata.name.startsWith('{PREFIX}')", f"a reboot Job's name must start with {PREFIX}"),
        (_equal("object.spec", {key: shape["spec"][key] for key in job}), "a reboot Job must run one pod, once"),
        (
            f"object.spec.?activeDeadlineSeconds.orValue({LONGEST + 1}) <= {LONGEST}"
            " && has(object.spec.ttlSecondsAfterFinished)",
            "a reboot Job must have a deadline of at most 1h and a TTL after it finished",
        ),
        (
            _equal("variables.pod", {key: pod[key] for key in (*fixed, "priorityClassName")})
            + " && !variables.pod.?hostIPC.orValue(false) && !variables.pod.?shareProcessNamespace.orValue(false)",
            "the pod's service account, namespaces and priority must match the template",
        ),
        ("variables.pod.?nodeName.orValue('') != ''", "a reboot Job must name its node"),
        (_off_control_planes(pod["affinity"]), "a reboot Job must not run on control-plane nodes"),
        (_absent("variables.pod", _NOT_IN_POD), "the pod must not have volumes, other containers or secrets"),
        ("variables.pod.containers.size() == 1", "the pod must have exactly one container"),
        (f"variables.container.image.matches('{DIGEST}')", "the image must be pinned by digest"),
        (
            f"variables.container.?command.orValue([]) == {_cel(container['command'])}",
            "the command must match the template",
        ),
        (
            _absent("variables.container", _NOT_IN_CONTAINER),
            "the container must not have arguments, mounts, hooks, probes or ports",
        ),
        (
            f"variables.env.map(e, e.name) == {_cel(names)} && variables.env.all(e, !has(e.valueFrom)) && {values}",
            "the pod's boot ID, operation and times must be plain environment values",
        ),
        (
            "variables.env.filter(e, e.name == 'OPERATION').all(e, e.?value.orValue('') == object.metadata.name)",
            "the operation must equal the Job's name",
        ),
        (
            f"variables.expires.all(e, variables.asked.all(a, int(e) - int(a) <= {LONGEST}))",
            "the pod may act for at most 1h",
        ),
    ]


def _off_control_planes(affinity: Mapping[str, Any]) -> str:
    (term,) = affinity["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    terms = (
        "variables.pod.?affinity.?nodeAffinity.?requiredDuringSchedulingIgnoredDuringExecution"
        ".?nodeSelectorTerms.orValue([])"
    )
    needed = " && ".join(
        f"t.?matchExpressions.orValue([]).exists(e, e.key == '{e['key']}' && e.operator == '{e['operator']}')"
        for e in term["matchExpressions"]
    )
    return f"{terms}.size() > 0 && {terms}.all(t, {needed})"


def _equal(path: str, wanted: Mapping[str, Any]) -> str:
    return " && ".join(f"has({path}.{key}) && {path}.{key} == {_cel(value)}" for key, value in wanted.items())


def _absent(path: str, names: Sequence[str]) -> str:
    return " && ".join(f"!has({path}.{name})" for name in names)


def _cel(value: Any) -> str:
    return json.dumps(value, ensure_ascii=True)


def _rule(group: str, resources: Sequence[str], operations: Sequence[str]) -> Json:
    return {
        "apiGroups": [group],
        "apiVersions": ["*"],
        "operations": list(operations),
        "resources": list(resources),
    }


def _pair(
    name: str,
    words: str,
    *,
    rules: Sequence[Json],
    variables: Mapping[str, str],
    checks: Checks,
    only: str = "",
    parameter: Mapping[str, str] | None = None,
) -> Iterator[tuple[str, Json]]:
    version = "admissionregistration.k8s.io/v1"
    metadata = {"name": name, "labels": {"app.kubernetes.io/name": "gpuheal"}}
    spec: Json = {"failurePolicy": "Fail"}
    if parameter:
        spec["paramKind"] = {"apiVersion": "v1", "kind": "ConfigMap"}
    spec["matchConstraints"] = {"resourceRules": list(rules)}
    if only:
        spec["matchConditions"] = [{"name": "responder", "expression": only}]
    if variables:
        spec["variables"] = [{"name": key, "expression": text} for key, text in variables.items()]
    spec["validations"] = [{"expression": text, "message": said} for text, said in checks]
    yield words, {"apiVersion": version, "kind": "ValidatingAdmissionPolicy", "metadata": metadata, "spec": spec}
    binding: Json = {"policyName": name, "validationActions": ["Deny"]}
    if parameter:
        binding["paramRef"] = {**parameter, "parameterNotFoundAction": "Allow"}
    yield (
        "",
        {
            "apiVersion": version,
            "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": metadata,
            "spec": binding,
        },
    )
