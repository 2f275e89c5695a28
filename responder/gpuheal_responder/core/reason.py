"""Every reason there is: a slug for machines, a sentence for people.

The same slug stands in the Remediation, the Event, the metric label and the docs, which are made from this list.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Self


class Told(StrEnum):
    """Slugs; `sentence` says what one means."""

    sentence: str

    def __new__(cls, slug: str, sentence: str) -> Self:
        """Return the member that is equal to its slug and carries its sentence."""
        member = str.__new__(cls, slug)
        member._value_ = slug
        member.sentence = sentence
        return member


class DeadLetterReason(Told):
    """Why an alert or a delivery that is meant for us is a dead letter."""

    CLUSTER_MISMATCH = "cluster-mismatch", "the label `cluster` is missing or names another cluster"
    UNKNOWN_FAULT = "unknown-fault", "the label `fault` is missing or not in the catalogue"
    UNKNOWN_SEVERITY = "unknown-severity", "the label `severity` is missing or not one of critical, warning, info"
    UNUSABLE_TIME = "unusable-time", "the alert begins in a year that cannot be"
    UNUSABLE_LABEL = "unusable-label", "a label has a value that cannot be of its kind, or is too long"
    NO_NODE = "no-node", "the alert has no label `node`"
    NOT_A_NODE = "unknown-node", "no GPU node has the name in the label `node`"
    TOO_MANY_FAULTS = "too-many-faults", "the node has more faults than are handled"
    TOO_MANY_INCIDENTS = "too-many-incidents", "there are more incidents at once than are handled"
    DELIVERY_TOO_COMPLEX = "delivery-too-complex", "a delivery has more values than are read"
    DELIVERY_TOO_LARGE = "delivery-too-large", "a delivery is larger than is read"
    DELIVERY_UNUSABLE = "delivery-unusable", "a delivery is Alertmanager's and cannot be understood"


class SeriesReason(Told):
    """Why a series is ignored as evidence."""

    WITNESS_LABELS = "witness-labels", "a witness without node, fault or a known class"
    WITNESS_VALUE = "witness-value", "a witness whose time or sample age is missing or impossible"
    IDENTITY_LABELS = "identity-labels", "an identity without node, GPU or source"
    BOOT_VALUE = "boot-value", "a boot time without node, or an impossible one"
    STATE_LABELS = "state-labels", "a GPU state without node or GPU"
    STATE_VALUE = "state-value", "a GPU state that is none of 0 to 5"
    NODE_NAME = "node-name", "a node name that Kubernetes does not allow"


class Reason(Told):
    """What a verdict, a refusal, an attempt or an error of the other side can give."""

    # progress of steps
    NOT_MARKED = "not-marked", "this case's taint and undo record are not on the node yet"
    MARKED = "marked", "the taint, the cordon and the undo record are on the node"
    PUT_BACK = "put-back", "automation had removed the taint or cordon; it was reapplied"
    MARKS_LIFTED = "marks-lifted", "the cordon was removed after a boot, before the node was verified healthy"
    NOT_CORDONED = "not-cordoned", "the node is not cordoned under this case's undo record yet"
    CORDONED = "cordoned", "the node is cordoned"
    NOT_PUBLISHED = "not-published", "the node condition for the fault is not set yet"
    PUBLISHED = "published", "the node condition for the fault is set"
    PODS_LEFT = "pods-left", "pods still have to be evicted"
    PODS_LEAVING = "pods-leaving", "pods are terminating"
    DRAINING = "draining", "the node is being drained"
    EVICTION_BLOCKED = "eviction-blocked", "a PodDisruptionBudget or a protected pod blocks an eviction"
    EMPTY = "empty", "no pod is left to evict"
    DRAIN_DEADLINE = "drain-deadline", "pods were still on the node at the drain deadline"
    KEEPS_FILLING = "keeps-filling", "new pods keep arriving on the drained node"
    REBOOT_DUE = "reboot-due", "the machine has to be rebooted"
    REBOOTING = "rebooting", "a reboot was requested; the boot ID has not changed yet"
    BOOTING = "booting", "the machine has booted; its node is not Ready yet"
    REBOOTED = "rebooted", "the node is Ready with a new boot ID"
    REBOOT_FAILED = "reboot-failed", "the provider reports that the reboot failed"
    REBOOT_DEADLINE = "reboot-deadline", "the node was not Ready with a new boot ID at the reboot deadline"
    REBOOTED_BY_OTHERS = (
        "rebooted-by-others",
        "something other than this case rebooted the node; the effect of that boot is verified first",
    )
    OUTCOME_UNKNOWN = "outcome-unknown", "the provider cannot tell whether it received the request"
    VERIFY_DUE = "verify-due", "the node's health has to be verified"
    VERIFYING = "verifying", "verification is not complete yet"
    VERIFY_DEADLINE = "verify-deadline", "verification was not complete at its deadline"
    HEALTH_UNKNOWN = "health-unknown", "no source has reported on the node's health since the recovery step"
    HEALTH_DOUBTFUL = (
        "health-doubtful",
        "only weak signs of a fault, or a degraded GPU, have been reported since the recovery step",
    )
    PROVEN = "proven", "every GPU on the node is verified healthy"
    FAULT_AGAIN = "fault-again", "a fault was reported again after the recovery step"
    PROBATION_DUE = "probation-due", "the node has to pass probation"
    PROBATION = "probation", "the verified node is on probation, still contained"
    PROBATION_UNPROVEN = "probation-unproven", "the node was not verified healthy at the end of its probation"
    QUIET = "quiet", "no fault was reported during probation"
    BEGUN = "begun", "the step has started"
    RETRYING = "retrying", "the step failed and will be retried shortly"
    AWAITING_REPAIR = "awaiting-repair", "contained; the policy has no recovery step, so repair is manual"
    AWAITING_UNCORDON = (
        "awaiting-uncordon",
        "verified healthy; the policy has no restore step, so uncordoning is manual",
    )
    LOOKING_CLOSER = "looking-closer", "the decision needs more data about the node, such as its pods"
    # refusals
    NO_ALERTMANAGER = "no-alertmanager", "no Alertmanager peer answers"
    NO_ACTIVE_ALERT = "no-active-alert", "no alert of the case is active any more"
    ALERT_SILENCED = "alert-silenced", "an Alertmanager silence matches the case"
    ALERT_INHIBITED = "alert-inhibited", "Alertmanager inhibits the alert"
    ALERT_MUTED = "alert-muted", "an Alertmanager mute time interval is active"
    NO_EVIDENCE = "no-evidence", "Prometheus returned no evidence for the node"
    EVIDENCE_STALE = "evidence-stale", "the newest evidence sample is too old"
    EVIDENCE_SETTLED = "evidence-settled", "all evidence predates the node's last return to service"
    EVIDENCE_OF_BEFORE = (
        "evidence-predates-node",
        "all evidence predates the Node object, so it may be another machine's",
    )
    NOT_PROBABLE = "not-probable", "containment needs evidence from one strong source"
    NOT_CONFIRMED = (
        "not-confirmed",
        "a disruptive step needs the driver's own recovery verdict or two classes of evidence sources",
    )
    IDENTITY_UNPROVEN = "identity-unproven", "fewer than two sources report the GPU on this node"
    PROOF_MISSING = "proof-missing", "the node is currently not verified healthy"
    MARK_BUDGET = "mark-budget", "the limit on newly tainted nodes in the pool is reached"
    POOL_BUDGET = "pool-budget", "the limit on nodes out of service in the pool is reached"
    RACK_BUDGET = "rack-budget", "the limit on nodes out of service in the rack is reached"
    ZONE_BUDGET = "zone-budget", "the limit on nodes rebooting in the zone is reached"
    FABRIC_BUDGET = "fabric-domain-budget", "another node in the NVLink domain is out of service"
    LAST_OF_POOL = "last-of-pool", "no other node in the pool is schedulable, so the step needs manual approval"
    FLEET_INCIDENT = "fleet-incident", "the fault is part of an incident that affects many nodes"
    ATTEMPTS_SPENT = "attempts-spent", "the recovery step has reached its attempt limit"
    FLAPPING = "flapping", "the node was contained and returned to service too often within a day"
    HISTORY_UNREADABLE = "history-unreadable", "this version cannot read the machine's history"
    COOLDOWN = "cooldown", "the last attempt ended within the cooldown"
    CONTROL_PLANE = "control-plane", "the node is a control-plane node"
    PODS_UNKNOWN = "pods-unknown", "the node's pods could not be listed"
    PROTECTED_POD = "protected-pod", "a pod on the node must not be evicted"
    GPU_IN_USE = "gpu-in-use", "a pod still uses a GPU that the step would act on"
    GANG_IN_FLIGHT = "gang-in-flight", "another node of the same gang is being remediated"
    MODE_OBSERVE = "mode-observe", "the mode in force is observe"
    PAUSED = "paused", "gpuheal is paused in its controls ConfigMap"
    FROZEN = "frozen", "the alert pipeline from Prometheus to the responder is unhealthy or unproven"
    HELD = "held", "the node is on hold"
    LEFT_ALONE = "left-alone", "the node is opted out, or another tool is working on it"
    BOOTED_LATELY = "booted-lately", "the node booted recently, and not because of this case"
    NODE_LOCKED = "node-locked", "another tool holds the node's Lease"
    APPROVAL_NEEDED = "approval-needed", "the step needs manual approval"
    APPROVAL_MISMATCH = "approval-mismatch", "the approval was given for different evidence"
    APPROVAL_EXPIRED = "approval-expired", "the approval has expired"
    APPROVAL_OVERLONG = "approval-overlong", "the approval lasts longer than approvals may, or is dated in the future"
    POLICY_MISSING = "policy-missing", "the case's policy was renamed or removed"
    STEP_MISSING = "step-missing", "the step in progress is no longer in the policy"
    UNDO_UNREADABLE = "undo-unreadable", "this version cannot read the node's undo record"
    INTERNAL_ERROR = "internal-error", "gpuheal failed to decide; its log holds the traceback"
    CASE_UNREADABLE = "case-unreadable", "this version cannot read the node's Remediation"
    # no case is opened
    UNKNOWN_NODE = "unknown-node", "no GPU node has this name"
    NO_POLICY = "no-policy", "no policy matches the fault on this node"
    TAKEN_BACK = "taken-back", "someone returned the node to service manually, and nothing new has been seen since"
    OTHER_CASE = "other-case", "the node has an open case, under a policy that does not cover the fault"
    # endings
    RESTORED = "restored", "the node was returned to service as it was found"
    CLEARED = "cleared", "the fault cleared before any action was taken"
    TAKEN_OVER = "taken-over", "someone removed the taint or cordon manually"
    REVERTED = "reverted", "gpuheal's changes to the node were reverted"
    NODE_GONE = "node-gone", "the node no longer exists"
    MACHINE_REPLACED = "machine-replaced", "a different machine now has the node's name"
    NODE_RECREATED = "node-recreated", "the Node object was deleted and recreated"
    # escalations of the ladder itself
    LADDER_EXHAUSTED = "ladder-exhausted", "the policy has no recovery step left"
    UNCORDONED = "uncordoned", "someone uncordoned the escalated node; gpuheal's taint is still on it"
    # errors of the other side
    CONFLICT = "conflict", "the object was changed concurrently"
    FORBIDDEN = "forbidden", "the API server denies the request"
    NOT_FOUND = "not-found", "the object does not exist"
    REJECTED = "rejected", "the API server rejects the object"
    THROTTLED = "throttled", "the API server is throttling requests"
    API_UNAVAILABLE = "api-unavailable", "the API server does not respond"
    TIMEOUT = "timeout", "the request timed out"
    MARKED_BY_OTHER = "marked-by-other", "the node carries another case's undo record"
    UNKNOWN_PROVIDER = "unknown-provider", "no provider with this name is configured"
    BOOT_ID_UNKNOWN = "boot-id-unknown", "the node reports no boot ID"
    CRD_OUTDATED = "crd-outdated", "the CRD in the cluster is older than this version"
    NOT_LEADER = "not-leader", "another replica is the leader now"
    NOT_LOOKED = "not-looked", "the leader has not completed its first round yet"
    NOT_STORED = "not-stored", "the case could not be saved yet"
    NODE_CHANGED = "node-changed", "the node changed after it was read"
    WORLD_CHANGED = "world-changed", "a fresh read led to a different decision"
    # answers of the routes for people, beside an HTTP status
    INVALID = "invalid", "the request is malformed"
    TOO_SLOW = "too-slow", "the request body took too long"
    CLOSED = "closed", "the case is already closed"
    UNREADABLE = "unreadable", "data for the answer cannot be read"
    REFUSED = "refused", "the responder refused the request"
