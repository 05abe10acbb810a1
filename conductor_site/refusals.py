"""Attempts that ended before a service was reached, which are in the audit log too: no
permission, no such thing. What a service refuses, it records itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.http import HttpRequest

from apps import errors
from apps.registry import auth, callers
from apps.registry.auth import Actor
from apps.registry.operations import Operation, TargetType
from apps.registry.services import record_failure

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")

# What each operation of the API, and each page that changes something, is about. Those
# that change nothing, and those of nobody's organization, are in no log.
OPERATIONS: dict[str, Operation] = {
    # The API
    "registerApp": Operation.APPLICATION_CREATE,
    "updateApp": Operation.APPLICATION_UPDATE,
    "deleteApp": Operation.APPLICATION_DELETE,
    "setLatestAppVersion": Operation.APPLICATION_SET_LATEST_VERSION,
    "createAlertingRule": Operation.ALERTING_RULE_CREATE,
    "deleteAlertingRule": Operation.ALERTING_RULE_DELETE,
    "setAutoscalingPolicy": Operation.AUTOSCALING_POLICY_SET,
    "deleteAutoscalingPolicy": Operation.AUTOSCALING_POLICY_DELETE,
    "retryRecovery": Operation.RECOVERY_RETRY,
    "backfillSchedule": Operation.SCHEDULE_BACKFILL,
    "pauseSchedule": Operation.SCHEDULE_PAUSE,
    "resumeSchedule": Operation.SCHEDULE_RESUME,
    "triggerSchedule": Operation.SCHEDULE_TRIGGER,
    "bulkCancelWorkflows": Operation.WORKFLOW_BULK_CANCEL,
    "bulkDeleteWorkflows": Operation.WORKFLOW_BULK_DELETE,
    "bulkForkWorkflowsFromFailure": Operation.WORKFLOW_FORK_FROM_FAILURE,
    "bulkResumeWorkflows": Operation.WORKFLOW_BULK_RESUME,
    "importWorkflow": Operation.WORKFLOW_IMPORT,
    "deleteWorkflow": Operation.WORKFLOW_DELETE,
    "cancelWorkflow": Operation.WORKFLOW_CANCEL,
    "forkWorkflow": Operation.WORKFLOW_FORK,
    "resumeWorkflow": Operation.WORKFLOW_RESUME,
    "rewindWorkflow": Operation.WORKFLOW_REWIND,
    "requestDomainClaim": Operation.DOMAIN_CLAIM_CREATE,
    "releaseDomainClaim": Operation.DOMAIN_CLAIM_DELETE,
    "updateOrg": Operation.ORGANIZATION_UPDATE,
    "setImportPolicy": Operation.ORGANIZATION_UPDATE,
    "removeMember": Operation.USER_REMOVE,
    "grantRole": Operation.ROLE_GRANT,
    "createRole": Operation.ROLE_CREATE,
    "deleteRole": Operation.ROLE_DELETE,
    "generateSecret": Operation.USER_INVITE,
    "createToken": Operation.TOKEN_CREATE,
    "updateToken": Operation.TOKEN_RENAME,
    "deleteToken": Operation.TOKEN_REVOKE,
    # Pages
    "registry:application_create": Operation.APPLICATION_CREATE,
    "registry:application_settings": Operation.APPLICATION_UPDATE,
    "registry:application_delete": Operation.APPLICATION_DELETE,
    "registry:key_create": Operation.TOKEN_CREATE,
    "registry:key_revoke": Operation.TOKEN_REVOKE,
    "registry:invitation_create": Operation.USER_INVITE,
    "registry:invitation_revoke": Operation.USER_UNINVITE,
    "registry:member_role": Operation.ROLE_GRANT,
    "registry:member_remove": Operation.USER_REMOVE,
    "registry:role_create": Operation.ROLE_CREATE,
    "registry:role_delete": Operation.ROLE_DELETE,
    "registry:domain_claim_request": Operation.DOMAIN_CLAIM_CREATE,
    "registry:domain_claim_release": Operation.DOMAIN_CLAIM_DELETE,
    "executors:recovery_retry": Operation.RECOVERY_RETRY,
    "workflows:workflow_cancel": Operation.WORKFLOW_CANCEL,
    "workflows:workflow_resume": Operation.WORKFLOW_RESUME,
    "workflows:workflow_fork": Operation.WORKFLOW_FORK,
    "workflows:workflow_delete": Operation.WORKFLOW_DELETE,
    "workflows:workflow_bulk_cancel": Operation.WORKFLOW_BULK_CANCEL,
    "workflows:workflow_bulk_resume": Operation.WORKFLOW_BULK_RESUME,
    "workflows:workflow_bulk_delete": Operation.WORKFLOW_BULK_DELETE,
}

# The parts of a path that name a target, the most exact first.
_TARGETS = (
    ("workflowId", TargetType.WORKFLOW),
    ("workflow_id", TargetType.WORKFLOW),
    ("scheduleName", TargetType.SCHEDULE),
    ("ruleId", TargetType.ALERTING_RULE),
    ("appName", TargetType.APPLICATION),
    ("app", TargetType.APPLICATION),
    ("tokenName", TargetType.TOKEN),
    ("username", TargetType.USER),
    ("roleName", TargetType.ROLE),
    ("domain", TargetType.DOMAIN_CLAIM),
    ("orgName", TargetType.ORGANIZATION),
    ("org", TargetType.ORGANIZATION),
)


def find_operation(
    request: HttpRequest, failure: errors.ConductorError
) -> Operation | None:
    """Return what the attempt was to do; None where it was to change nothing, or a
    service has recorded it."""
    match = request.resolver_match
    if failure.is_audited or request.method in SAFE_METHODS or match is None:
        return None
    return OPERATIONS.get(match.view_name) or OPERATIONS.get(match.url_name or "")


def record(request: HttpRequest, failure: errors.ConductorError) -> None:
    """Write the entry that no service wrote, if the attempt was to change something in
    an organization of the caller's."""
    match, operation = request.resolver_match, find_operation(request, failure)
    if match is None or operation is None:
        return
    try:
        actor = _actor(request, match.kwargs)
    except errors.ConductorError:
        return
    names = match.kwargs
    name, target_type = next(one for one in _TARGETS if one[0] in names)
    app = names.get("appName") or names.get("app")
    record_failure(
        failure,
        actor=actor,
        operation=operation,
        target_type=target_type,
        target_id=names[name],
        details={"application_name": app} if app else {},
    )


def _actor(request: HttpRequest, names: Mapping[str, Any]) -> Actor:
    if "orgName" in names:
        return callers.actor_in(request, names["orgName"])
    return auth.actor_for(request, names["org"])
