"""Who is connected, and what became of those who are not."""

from __future__ import annotations

from typing import ClassVar

from django.db import models
from django.db.models.functions import Now

from apps.registry.models import ApiKey, Application, Organization


class Instance(models.Model):
    """One server process that serves sockets. It beats; its executors do not."""

    id = models.CharField(primary_key=True, max_length=36)
    hostname = models.CharField(max_length=255, blank=True)
    started_at = models.DateTimeField(db_default=Now())
    beat_at = models.DateTimeField(db_default=Now())

    class Meta:
        indexes = [models.Index(fields=["beat_at"], name="instance_beat")]

    def __str__(self) -> str:
        return self.id


class PresenceClock(models.Model):
    """One row: the last moment at which any instance was alive (see presence.beat)."""

    id = models.SmallIntegerField(primary_key=True, default=1)
    alive_at = models.DateTimeField(db_default=Now())

    def __str__(self) -> str:
        return "presence clock"


class SystemDatabase(models.Model):
    """One system database that executors of an application work on, known by its marks.

    See `databases` and docs/adr/0006. An executor's word counts only for its own.
    """

    application = models.ForeignKey(
        Application, models.CASCADE, related_name="system_databases"
    )
    label = models.CharField(max_length=24)
    marks = models.JSONField(default=list)
    first_seen_at = models.DateTimeField(db_default=Now())
    last_seen_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["application", "label"], name="database_label_once"
            )
        ]

    def __str__(self) -> str:
        return self.label


class Executor(models.Model):
    """One process of an application, by the id it reports. Source: `executor_info`."""

    class State(models.TextChoices):
        HEALTHY = "HEALTHY"
        DISCONNECTED = "DISCONNECTED"
        DEAD = "DEAD"

    application = models.ForeignKey(
        Application, models.CASCADE, related_name="executors"
    )
    executor_id = models.CharField(max_length=255)
    # Null where it could not be told.
    database = models.ForeignKey(
        SystemDatabase, models.SET_NULL, null=True, blank=True, related_name="executors"
    )
    application_version = models.CharField(max_length=255, blank=True)
    hostname = models.CharField(max_length=255, blank=True)
    language = models.CharField(max_length=32, blank=True)
    dbos_version = models.CharField(max_length=64, blank=True)
    metadata = models.JSONField(default=dict)
    state = models.CharField(
        max_length=12, choices=State.choices, default=State.HEALTHY
    )
    # The open socket: which one, in which server process. Fences late news of old ones.
    connection_id = models.CharField(max_length=36, blank=True, db_index=True)
    instance_id = models.CharField(max_length=36, blank=True)
    api_key = models.ForeignKey(
        ApiKey, models.SET_NULL, null=True, blank=True, related_name="+"
    )
    remote_ip = models.CharField(max_length=45, blank=True)
    connected_at = models.DateTimeField(null=True, blank=True)
    disconnected_at = models.DateTimeField(null=True, blank=True)
    dead_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(db_default=Now())
    updated_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["application", "executor_id"], name="executor_once"
            )
        ]
        indexes = [
            models.Index(
                fields=["application", "disconnected_at", "id"],
                condition=models.Q(state="DISCONNECTED"),
                name="executor_disconnected",
            ),
            models.Index(fields=["instance_id", "state"], name="executor_by_instance"),
            models.Index(
                fields=["application", "state", "application_version"],
                name="executor_by_version",
            ),
        ]

    def __str__(self) -> str:
        return self.executor_id


class Recovery(models.Model):
    """The record of one dead executor: what it left, who took it, and the proof."""

    class State(models.TextChoices):
        WAITING = "WAITING"
        REQUESTED = "REQUESTED"
        CONFIRMED = "CONFIRMED"
        RETURNED = "RETURNED"

    OPEN: ClassVar = (State.WAITING, State.REQUESTED)

    application = models.ForeignKey(
        Application, models.CASCADE, related_name="recoveries"
    )
    executor_id = models.CharField(max_length=255)
    # Of the dead executor; null where it could not be told.
    database = models.ForeignKey(
        SystemDatabase,
        models.SET_NULL,
        null=True,
        blank=True,
        related_name="recoveries",
    )
    application_version = models.CharField(max_length=255, blank=True)
    language = models.CharField(max_length=32, blank=True)
    hostname = models.CharField(max_length=255, blank=True)
    state = models.CharField(
        max_length=10, choices=State.choices, default=State.WAITING
    )
    disconnected_at = models.DateTimeField(null=True)
    dead_at = models.DateTimeField()
    # The first order; later attempts are rows of RecoveryAttempt.
    requested_at = models.DateTimeField(null=True, blank=True)
    confirmed_at = models.DateTimeField(null=True, blank=True)
    returned_at = models.DateTimeField(null=True, blank=True)
    returned_after_takeover = models.BooleanField(default=False)
    taken_over_by = models.CharField(max_length=255, blank=True)
    attempts = models.PositiveIntegerField(default=0)
    next_try_at = models.DateTimeField()
    # While an order is on its way (REQUESTED and before this time) the executor it
    # names cannot be registered as HEALTHY: see recovery.claim and presence.register.
    lease_expires_at = models.DateTimeField(null=True, blank=True)
    waiting_reason = models.CharField(max_length=300, blank=True)
    pending_count = models.PositiveIntegerField(null=True, blank=True)
    pending_sample = models.JSONField(default=list)
    pending_left = models.PositiveIntegerField(null=True, blank=True)
    proved_by = models.CharField(max_length=255, blank=True)
    last_error = models.CharField(max_length=500, blank=True)

    class Meta:
        verbose_name_plural = "recoveries"
        constraints = [
            models.UniqueConstraint(
                fields=["application", "executor_id"],
                condition=models.Q(state__in=("WAITING", "REQUESTED")),
                name="recovery_open_once",
            )
        ]
        indexes = [
            # What is due of each application: recovery._applications_due.
            models.Index(
                fields=["application", "next_try_at", "id"],
                condition=models.Q(state="WAITING"),
                name="recovery_waiting",
            ),
            models.Index(
                fields=["application", "lease_expires_at", "id"],
                condition=models.Q(state="REQUESTED"),
                name="recovery_requested",
            ),
            # What is closed, the oldest first: see retention.
            models.Index(
                fields=["dead_at"],
                condition=models.Q(state__in=("CONFIRMED", "RETURNED")),
                name="recovery_closed",
            ),
            models.Index(fields=["application", "-id"], name="recovery_newest"),
            models.Index(
                fields=["application", "state", "-id"], name="recovery_by_state"
            ),
            models.Index(
                fields=["application", "executor_id"], name="recovery_by_executor"
            ),
            models.Index(
                fields=["application", "requested_at"], name="recovery_by_request"
            ),
        ]

    def __str__(self) -> str:
        return f"recovery of {self.executor_id}"


class RecoveryAttempt(models.Model):
    """One order to one executor, and what came of it."""

    class Outcome(models.TextChoices):
        CONFIRMED = "confirmed"
        STILL_PENDING = "still pending"
        REFUSED = "refused"
        FAILED = "failed"

    recovery = models.ForeignKey(Recovery, models.CASCADE, related_name="attempt_set")
    executor_id = models.CharField(max_length=255)
    started_at = models.DateTimeField()
    duration_ms = models.PositiveIntegerField(default=0)
    outcome = models.CharField(max_length=16, choices=Outcome.choices)
    detail = models.CharField(max_length=500, blank=True)

    class Meta:
        indexes = [models.Index(fields=["recovery", "id"], name="attempt_order")]

    def __str__(self) -> str:
        return f"{self.outcome} by {self.executor_id}"


class RejectedConnection(models.Model):
    """Attempts to connect that were refused, folded by cause."""

    class Reason(models.TextChoices):
        BAD_KEY = "bad_key"
        REVOKED_KEY = "revoked_key"
        EXPIRED_KEY = "expired_key"
        UNKNOWN_APPLICATION = "unknown_application"
        WRONG_APPLICATION = "wrong_application"
        MISSING_PERMISSION = "missing_permission"
        OVER_QUOTA = "over_quota"

    organization = models.ForeignKey(
        Organization, models.CASCADE, related_name="rejected_connections"
    )
    application_name = models.CharField(max_length=256)
    api_key = models.ForeignKey(
        ApiKey, models.SET_NULL, null=True, blank=True, related_name="+"
    )
    key_prefix = models.CharField(max_length=16, blank=True)
    reason = models.CharField(max_length=24, choices=Reason.choices)
    status = models.PositiveSmallIntegerField()
    count = models.PositiveBigIntegerField(default=0)
    first_seen_at = models.DateTimeField()
    last_seen_at = models.DateTimeField()
    remote_ip = models.CharField(max_length=45, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["organization", "application_name", "key_prefix", "reason"],
                name="rejection_once",
            )
        ]
        indexes = [
            models.Index(
                fields=["organization", "-last_seen_at"], name="rejection_newest"
            )
        ]

    def __str__(self) -> str:
        return f"{self.reason}: {self.application_name}"
