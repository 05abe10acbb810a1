"""Last-known workflow metadata, and the commands that people gave."""

from __future__ import annotations

from django.db import models
from django.db.models.functions import Now

from apps.registry.models import Application

STATUSES = (
    "PENDING",
    "ENQUEUED",
    "DELAYED",
    "SUCCESS",
    "ERROR",
    "CANCELLED",
    "MAX_RECOVERY_ATTEMPTS_EXCEEDED",
)
UNFINISHED = ("PENDING", "ENQUEUED", "DELAYED")
FINISHED = frozenset(STATUSES) - frozenset(UNFINISHED)


class WorkflowSnapshot(models.Model):
    """The last-known metadata of one workflow; never its inputs, outputs or errors."""

    # Every index begins with it; one more of its own would only cost.
    application = models.ForeignKey(
        Application, models.CASCADE, related_name="snapshots", db_index=False
    )
    # On PostgreSQL its collation is "C", set by a migration because SQLite has no such
    # name: ids are ordered by code points everywhere. A later change must keep that.
    workflow_id = models.TextField()
    status = models.CharField(max_length=64)
    name = models.CharField(max_length=255, blank=True)
    class_name = models.CharField(max_length=255, blank=True)
    config_name = models.CharField(max_length=255, blank=True)
    application_version = models.CharField(max_length=255, blank=True)
    executor_id = models.CharField(max_length=255, blank=True)
    queue_name = models.CharField(max_length=255, blank=True)
    # 1970 where the executor named none: such a workflow is the last of the list.
    created_at = models.DateTimeField()
    updated_at = models.DateTimeField()
    completed_at = models.DateTimeField(null=True, blank=True)
    dequeued_at = models.DateTimeField(null=True, blank=True)
    priority = models.BigIntegerField(default=0)
    parent_workflow_id = models.TextField(blank=True)
    forked_from = models.TextField(blank=True)
    was_forked_from = models.BooleanField(default=False)
    schedule_name = models.CharField(max_length=255, blank=True)
    authenticated_user = models.CharField(max_length=255, blank=True)
    deduplication_id = models.TextField(blank=True)
    attributes = models.TextField(blank=True)
    seen_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["application", "workflow_id"], name="snapshot_once"
            )
        ]
        # Each filter of the list with its order; benchmarks/snapshots.py measures them.
        indexes = [
            models.Index(
                fields=["application", "-created_at", "workflow_id"],
                name="snapshot_newest",
            ),
            models.Index(
                fields=["application", "status", "-created_at", "workflow_id"],
                name="snapshot_by_status",
            ),
            models.Index(
                fields=["application", "name", "-created_at", "workflow_id"],
                name="snapshot_by_name",
            ),
            models.Index(
                fields=[
                    "application",
                    "application_version",
                    "-created_at",
                    "workflow_id",
                ],
                name="snapshot_by_version",
            ),
            models.Index(
                fields=["application", "status", "name", "-created_at", "workflow_id"],
                name="snapshot_by_status_name",
            ),
            # LIKE 'prefix%' needs byte order on PostgreSQL; SQLite reads past this.
            models.Index(
                fields=["application", "workflow_id"],
                opclasses=["int8_ops", "text_pattern_ops"],
                name="snapshot_by_id_prefix",
            ),
            # The sync asks again about the unfinished, the longest unseen first.
            models.Index(
                fields=["application", "seen_at"],
                condition=models.Q(status__in=UNFINISHED),
                name="snapshot_unfinished",
            ),
        ]

    def __str__(self) -> str:
        return self.workflow_id


class SnapshotSync(models.Model):
    """How far the sync of one application has come. See `services.sync`."""

    application = models.OneToOneField(
        Application, models.CASCADE, related_name="snapshot_sync", primary_key=True
    )
    # The next run begins then; a run under way holds it in the future as its lease.
    due_at = models.DateTimeField(db_default=Now(), db_index=True)
    failures = models.PositiveIntegerField(default=0)
    error = models.CharField(max_length=300, blank=True)
    last_synced_at = models.DateTimeField(null=True, blank=True)
    newest_at = models.DateTimeField(null=True, blank=True)
    # What is newer than this is still to be read, except so many of that very moment.
    newer_than = models.DateTimeField(null=True, blank=True)
    newer_skip = models.PositiveIntegerField(default=0)
    # The patrol, from the newest to the oldest and again: what is older than this.
    older_than = models.DateTimeField(null=True, blank=True)
    older_skip = models.PositiveIntegerField(default=0)
    # When the patrol last came to the end: from then on the whole history is known.
    completed_at = models.DateTimeField(null=True, blank=True)

    def __str__(self) -> str:
        return f"sync of {self.application}"


class WorkflowCommand(models.Model):
    """An order given by a person or a key. See `services.records`."""

    class State(models.TextChoices):
        SENT = "SENT"
        DONE = "DONE"
        FAILED = "FAILED"

    application = models.ForeignKey(
        Application, models.CASCADE, related_name="commands"
    )
    operation = models.CharField(max_length=64)
    target_type = models.CharField(max_length=32)
    target_id = models.CharField(max_length=512, blank=True)
    workflow_ids = models.JSONField(default=list)
    state = models.CharField(max_length=8, choices=State.choices, default=State.SENT)
    # `Actor.identity()`, for the audit entry.
    actor = models.JSONField(default=dict)
    created_at = models.DateTimeField(db_default=Now())
    finished_at = models.DateTimeField(null=True, blank=True)
    error = models.CharField(max_length=500, blank=True)
    detail = models.JSONField(default=dict)

    class Meta:
        indexes = [
            models.Index(fields=["application", "-id"], name="command_newest"),
            # Those that somebody has to close.
            models.Index(
                fields=["created_at"],
                condition=models.Q(state="SENT"),
                name="command_sent",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.operation} {self.target_id}"
