"""Every reason that a verdict, a refusal, an attempt or an error can give: a slug for machines, a sentence for people.

The same slug stands in the Remediation, the Event, the metric label and the docs, which are made from this list.
"""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Slugs; `sentence` says what one means."""

    sentence: str

    def __new__(cls, slug: str, sentence: str) -> Reason:
        """Return the member that is equal to its slug and carries its sentence."""
        member = str.__new__(cls, slug)
        member._value_ = slug
        member.sentence = sentence
        return member

    # progress of steps
    NOT_MARKED = "not-marked", "the node does not carry this case's taint and undo record yet"
    MARKED = "marked", "taint, cordon and undo record are on the node"
    PUT_BACK = "put-back", "a mark that something other than a person had lifted is back"
    MARKS_LIFTED = "marks-lifted", "the cordon was lifted after a boot, while the node is not proven"
    NOT_CORDONED = "not-cordoned", "the node is not cordoned under this case's undo record yet"
    CORDONED = "cordoned", "the node is cordoned"
    NOT_PUBLISHED = "not-published", "the node condition that tells of the fault is not written yet"
    PUBLISHED = "published", "the node condition tells of the fault"
    PODS_LEFT = "pods-left", "pods that have to leave are still there"
    PODS_LEAVING = "pods-leaving", "pods are terminating"
    DRAINING = "draining", "the node is being emptied"
    EVICTION_BLOCKED = "eviction-blocked", "a disruption budget refuses an eviction"
    EMPTY = "empty", "no pod is left that has to leave"
    DRAIN_DEADLINE = "drain-deadline", "pods were still there when the drain's time was up"
    KEEPS_FILLING = "keeps-filling", "pods keep coming back to a node that was emptied"
    REBOOT_DUE = "reboot-due", "the machine has to be rebooted"
    REBOOTING = "rebooting", "a reboot was asked for; the boot id has not changed yet"
    BOOTING = "booting", "the machine has booted; its node is not Ready yet"
    REBOOTED = "rebooted", "the node is Ready under another boot id"
    REBOOT_FAILED = "reboot-failed", "the provider says that the reboot failed"
    REBOOT_DEADLINE = "reboot-deadline", "the node was not back when the reboot's time was up"
    REBOOTED_BY_OTHERS = "rebooted-by-others", "somebody else rebooted the node; what that did is looked at first"
    OUTCOME_UNKNOWN = "outcome-unknown", "nobody can tell whether the call was made"
    VERIFY_DUE = "verify-due", "the node has to be proven well"
    VERIFYING = "verifying", "the proof is not complete yet"
    VERIFY_DEADLINE = "verify-deadline", "the proof was not complete when its time was up"
    PROVEN = "proven", "every GPU of the node is proven well"
    FAULT_AGAIN = "fault-again", "a fault was seen after the cure"
    PROBATION_DUE = "probation-due", "the proven node has to be watched for a while"
    PROBATION = "probation", "the proven node is being watched"
    PROBATION_UNPROVEN = "probation-unproven", "the proof did not hold at the end of the quiet time"
    QUIET = "quiet", "no fault was seen in the quiet time"
    BEGUN = "begun", "the step has begun"
    RETRYING = "retrying", "the step failed and will be tried again shortly"
    AWAITING_REPAIR = "awaiting-repair", "contained; the policy leaves the cure to people"
    AWAITING_UNCORDON = "awaiting-uncordon", "proven; the policy leaves giving back to people"
    LOOKING_CLOSER = "looking-closer", "the node has to be looked at more closely"
    # refusals
    NO_ALERTMANAGER = "no-alertmanager", "no Alertmanager peer answers"
    NO_ACTIVE_ALERT = "no-active-alert", "no alert of the case is active any more"
    ALERT_SILENCED = "alert-silenced", "a person's silence matches the case"
    ALERT_INHIBITED = "alert-inhibited", "Alertmanager inhibits the alert"
    ALERT_MUTED = "alert-muted", "a mute time interval of Alertmanager is in force"
    NO_EVIDENCE = "no-evidence", "Prometheus gave no evidence for the node"
    EVIDENCE_STALE = "evidence-stale", "the newest witness sample is too old"
    EVIDENCE_SETTLED = "evidence-settled", "all evidence is older than the moment the node was last given back"
    NOT_PROBABLE = "not-probable", "containing needs one strong witness"
    NOT_CONFIRMED = "not-confirmed", "a disruptive step needs the driver's verdict or two classes of witnesses"
    IDENTITY_UNPROVEN = "identity-unproven", "fewer than two sources know the GPU to be in the node"
    PROOF_MISSING = "proof-missing", "the proof of health does not hold at this moment"
    MARK_BUDGET = "mark-budget", "as many nodes of the pool were tainted lately as are allowed"
    POOL_BUDGET = "pool-budget", "as many nodes of the pool are out of service as are allowed"
    RACK_BUDGET = "rack-budget", "as many nodes of the rack are out of service as are allowed"
    ZONE_BUDGET = "zone-budget", "as many nodes of the zone may be rebooting as are allowed"
    FABRIC_BUDGET = "fabric-domain-budget", "another node of the NVLink domain is out of service"
    LAST_OF_POOL = "last-of-pool", "no other node of the pool is schedulable; a person has to approve"
    FLEET_INCIDENT = "fleet-incident", "the fault is part of something that befell many nodes at once"
    ATTEMPTS_SPENT = "attempts-spent", "the cure ran as often as the window allows"
    COOLDOWN = "cooldown", "the cure ended too short a time ago"
    CONTROL_PLANE = "control-plane", "the node is a control-plane node"
    PODS_UNKNOWN = "pods-unknown", "the node's pods could not be listed"
    PROTECTED_POD = "protected-pod", "a pod on the node must not be moved"
    GANG_IN_FLIGHT = "gang-in-flight", "another node of the same gang is in remediation"
    MODE_OBSERVE = "mode-observe", "the mode in force only observes"
    PAUSED = "paused", "people have paused everything"
    FROZEN = "frozen", "the way from Prometheus to the responder is in doubt"
    HELD = "held", "a person holds the node"
    LEFT_ALONE = "left-alone", "the node opted out, or another tool is at work on it"
    BOOTED_LATELY = "booted-lately", "somebody else rebooted the node a moment ago"
    NODE_LOCKED = "node-locked", "another tool holds the node's Lease"
    APPROVAL_NEEDED = "approval-needed", "a person has to approve"
    APPROVAL_MISMATCH = "approval-mismatch", "the approval was for other evidence"
    APPROVAL_EXPIRED = "approval-expired", "the approval has expired"
    POLICY_MISSING = "policy-missing", "the case's policy was renamed or removed"
    STEP_MISSING = "step-missing", "the policy lost the step that is under way"
    UNDO_UNREADABLE = "undo-unreadable", "the node's undo record cannot be read by this version"
    CASE_UNREADABLE = "case-unreadable", "the node's Remediation cannot be read by this version"
    # no case is opened
    UNKNOWN_NODE = "unknown-node", "no GPU node has this name"
    NO_POLICY = "no-policy", "no policy answers for the fault on the node"
    TAKEN_BACK = "taken-back", "a person took the node back, and nothing new was seen since"
    # endings
    RESTORED = "restored", "the node was given back as it was found"
    CLEARED = "cleared", "the fault went away before anything was done"
    TAKEN_OVER = "taken-over", "a person took the node back"
    REVERTED = "reverted", "our marks were taken off the node"
    NODE_GONE = "node-gone", "the node does not exist any more"
    MACHINE_REPLACED = "machine-replaced", "another machine has the node's name now"
    NODE_RECREATED = "node-recreated", "the Node object was deleted and recreated"
    # escalations of the ladder itself
    LADDER_EXHAUSTED = "ladder-exhausted", "no cure is left in the policy"
    # errors of the other side
    CONFLICT = "conflict", "somebody else changed the object in between"
    FORBIDDEN = "forbidden", "the API server does not allow it"
    NOT_FOUND = "not-found", "the object does not exist"
    REJECTED = "rejected", "the API server does not accept the object"
    THROTTLED = "throttled", "the API server asks to wait"
    API_UNAVAILABLE = "api-unavailable", "the API server does not answer"
    TIMEOUT = "timeout", "no answer came in time"
    MARKED_BY_OTHER = "marked-by-other", "the node carries another case's undo record"
    UNKNOWN_PROVIDER = "unknown-provider", "no provider of this name is configured"
    BOOT_ID_UNKNOWN = "boot-id-unknown", "the node has no boot id"
    NOT_LEADER = "not-leader", "another replica leads now"
    NOT_STORED = "not-stored", "the case could not be stored yet"
    NODE_CHANGED = "node-changed", "the node changed since it was looked at"
    WORLD_CHANGED = "world-changed", "a fresh look led to another decision"
