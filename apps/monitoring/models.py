"""What is measured of applications, how they want to be scaled, and when to alert."""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta

from django.db import models
from django.db.models.functions import Now

from apps.registry.models import Application


class MetricCollection(models.Model):
    """How far the collection of one application's metrics is, and what is in flight."""

    application = models.OneToOneField(
        Application, models.CASCADE, related_name="metric_collection"
    )
    # The begin of the first window that is not collected yet.
    next_window_at = models.DateTimeField()
    # Also the lease of a run under way.
    due_at = models.DateTimeField()
    collected_at = models.DateTimeField(null=True, blank=True)
    # Series of workflows that wait or run, as of `in_flight_at`; null: nobody can tell.
    in_flight = models.JSONField(null=True, blank=True)
    in_flight_at = models.DateTimeField(null=True, blank=True)
    # Names of the last window that share the overflow series.
    folded_names = models.PositiveIntegerField(default=0)
    failures = models.PositiveIntegerField(default=0)
    error = models.CharField(max_length=300, blank=True)

    class Meta:
        indexes = [models.Index(fields=["due_at"], name="collection_due")]

    def __str__(self) -> str:
        return f"metrics of {self.application}"


class MetricWindow(models.Model):
    """One window of one application, a minute or less: what its database says of it.

    `workflows` and `steps` are lists of series, objects of `name`, `queue` (workflows
    only) and measures; null where the SDK cannot tell. `counts` is a list of
    `[metric type, name, value]`.
    """

    application = models.ForeignKey(
        Application, models.CASCADE, related_name="metric_windows"
    )
    starts_at = models.DateTimeField()
    duration_secs = models.PositiveSmallIntegerField(default=60)
    workflows = models.JSONField(null=True, blank=True)
    steps = models.JSONField(null=True, blank=True)
    counts = models.JSONField(default=list)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["application", "starts_at"], name="window_once"
            )
        ]
        indexes = [models.Index(fields=["starts_at"], name="window_by_age")]

    @property
    def ends_at(self) -> datetime:
        return self.starts_at + timedelta(seconds=self.duration_secs)

    def __str__(self) -> str:
        return f"{self.application} at {self.starts_at:%Y-%m-%d %H:%M:%S}"


class AutoscalingPolicy(models.Model):
    """Which queue's backlog sizes an application's fleet."""

    application = models.OneToOneField(
        Application, models.CASCADE, related_name="autoscaling_policy"
    )
    queue = models.CharField(max_length=255)
    has_rollout = models.BooleanField(default=False)
    max_old_versions = models.PositiveBigIntegerField(null=True, blank=True)
    max_executors_per_old_version = models.PositiveBigIntegerField(
        null=True, blank=True
    )
    updated_at = models.DateTimeField(db_default=Now())

    class Meta:
        verbose_name_plural = "autoscaling policies"

    def __str__(self) -> str:
        return f"{self.application} by {self.queue}"


class AlertingRule(models.Model):
    """When to alert, and whose executors are to hear it."""

    class Type(models.TextChoices):
        WORKFLOW_FAILURE = "WorkflowFailure"
        SLOW_QUEUE = "SlowQueue"
        UNRESPONSIVE_APPLICATION = "UnresponsiveApplication"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    application = models.ForeignKey(
        Application, models.CASCADE, related_name="alerting_rules"
    )
    receiving_application = models.ForeignKey(
        Application, models.CASCADE, related_name="received_alerting_rules"
    )
    rule_type = models.CharField(max_length=32, choices=Type.choices)
    # As it was sent: clients find their own spelling again.
    rule_metadata = models.JSONField(default=dict)
    min_interval_secs = models.PositiveIntegerField(null=True, blank=True)
    last_fired_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        indexes = [
            models.Index(fields=["application", "created_at"], name="rule_by_age")
        ]

    def __str__(self) -> str:
        return f"{self.rule_type} of {self.application}"
