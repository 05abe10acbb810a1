"""Last-known workflow metadata, and the commands that people gave."""

from __future__ import annotations

from django.db import models
from django.db.models.functions import Now

from apps.registry.models import Application


class WorkflowSnapshot(models.Model):
    """The last-known metadata of one workflow; never its inputs, outputs or errors."""

    application = models.ForeignKey(
        Application, models.CASCADE, related_name="snapshots"
    )
    workflow_id = models.TextField()
    status = models.CharField(max_length=64)
    name = models.CharField(max_length=255, blank=True)
    class_name = models.CharField(max_length=255, blank=True)
    config_name = models.CharField(max_length=255, blank=True)
    application_version = models.CharField(max_length=255, blank=True)
    executor_id = models.CharField(max_length=255, blank=True)
    queue_name = models.CharField(max_length=255, blank=True)
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
        indexes = [
            models.Index(
                fields=["application", "-created_at", "-id"], name="snapshot_newest"
            ),
            models.Index(
                fields=["application", "status", "-created_at", "-id"],
                name="snapshot_by_status",
            ),
            models.Index(
                fields=["application", "name", "-created_at", "-id"],
                name="snapshot_by_name",
            ),
        ]

    def __str__(self) -> str:
        return self.workflow_id


class SnapshotSync(models.Model):
    """How far the incremental sync of one application has come."""

    application = models.OneToOneField(
        Application, models.CASCADE, related_name="snapshot_sync", primary_key=True
    )
    last_synced_at = models.DateTimeField(null=True, blank=True)
    cursor_created_at = models.DateTimeField(null=True, blank=True)
    error = models.CharField(max_length=300, blank=True)

    def __str__(self) -> str:
        return f"sync of {self.application}"


class WorkflowCommand(models.Model):
    """An order given by a person or a key: cancel, resume, fork, delete."""

    class Kind(models.TextChoices):
        CANCEL = "cancel"
        RESUME = "resume"
        FORK = "fork"
        DELETE = "delete"

    class State(models.TextChoices):
        SENT = "SENT"
        DONE = "DONE"
        FAILED = "FAILED"

    application = models.ForeignKey(
        Application, models.CASCADE, related_name="commands"
    )
    kind = models.CharField(max_length=16, choices=Kind.choices)
    workflow_ids = models.JSONField(default=list)
    state = models.CharField(max_length=8, choices=State.choices, default=State.SENT)
    actor_display = models.CharField(max_length=254, blank=True)
    created_at = models.DateTimeField(db_default=Now())
    finished_at = models.DateTimeField(null=True, blank=True)
    error = models.CharField(max_length=500, blank=True)
    detail = models.JSONField(default=dict)

    class Meta:
        indexes = [models.Index(fields=["application", "-id"], name="command_newest")]

    def __str__(self) -> str:
        return f"{self.kind} of {len(self.workflow_ids)} workflows"
