"""What the audit log calls things: every operation, and every kind of target.

These names are of the public HTTP API: people filter by them.
"""

from __future__ import annotations

from django.db import models


class Operation(models.TextChoices):
    """`thing.verb`, of everything that is audited."""

    APPLICATION_CREATE = "application.create"
    APPLICATION_UPDATE = "application.update"
    APPLICATION_DELETE = "application.delete"
    APPLICATION_SET_LATEST_VERSION = "application.set_latest_version"
    WORKFLOW_CANCEL = "workflow.cancel"
    WORKFLOW_RESUME = "workflow.resume"
    WORKFLOW_FORK = "workflow.fork"
    WORKFLOW_FORK_FROM_FAILURE = "workflow.fork_from_failure"
    WORKFLOW_REWIND = "workflow.rewind"
    WORKFLOW_DELETE = "workflow.delete"
    WORKFLOW_EXPORT = "workflow.export"
    WORKFLOW_IMPORT = "workflow.import"
    WORKFLOW_BULK_CANCEL = "workflow.bulk_cancel"
    WORKFLOW_BULK_RESUME = "workflow.bulk_resume"
    WORKFLOW_BULK_DELETE = "workflow.bulk_delete"
    SCHEDULE_PAUSE = "schedule.pause"
    SCHEDULE_RESUME = "schedule.resume"
    SCHEDULE_TRIGGER = "schedule.trigger"
    SCHEDULE_BACKFILL = "schedule.backfill"
    RECOVERY_RETRY = "recovery.retry"
    ALERTING_RULE_CREATE = "alerting_rule.create"
    ALERTING_RULE_DELETE = "alerting_rule.delete"
    AUTOSCALING_POLICY_SET = "autoscaling_policy.set"
    AUTOSCALING_POLICY_DELETE = "autoscaling_policy.delete"
    TOKEN_CREATE = "token.create"
    TOKEN_RENAME = "token.rename"
    TOKEN_REVOKE = "token.revoke"
    ROLE_CREATE = "role.create"
    ROLE_DELETE = "role.delete"
    ROLE_GRANT = "role.grant"
    ORGANIZATION_CREATE = "organization.create"
    ORGANIZATION_UPDATE = "organization.update"
    DOMAIN_CLAIM_CREATE = "domain_claim.create"
    DOMAIN_CLAIM_DECIDE = "domain_claim.decide"
    DOMAIN_CLAIM_DELETE = "domain_claim.delete"
    USER_INVITE = "user.invite"
    USER_UNINVITE = "user.uninvite"
    USER_JOIN = "user.join"
    USER_REMOVE = "user.remove"
    USER_DEACTIVATE = "user.deactivate"
    USER_REACTIVATE = "user.reactivate"
    DEVICE_APPROVE = "device.approve"
    DEVICE_DENY = "device.deny"
    DEVICE_SIGN_OUT = "device.sign_out"


class TargetType(models.TextChoices):
    """What an operation is about. The public API knows these kinds and no other."""

    APPLICATION = "application"
    TOKEN = "token"
    ROLE = "role"
    USER = "user"
    ORGANIZATION = "organization"
    WORKFLOW = "workflow"
    SCHEDULE = "schedule"
    ALERTING_RULE = "alerting_rule"
    DOMAIN_CLAIM = "domain_claim"
