"""Staff screens of the monitoring."""

from __future__ import annotations

from django.contrib import admin

from apps.executors.admin import OfApplicationAdmin
from apps.monitoring.models import (
    AlertingRule,
    AutoscalingPolicy,
    MetricCollection,
    MetricWindow,
)


@admin.register(MetricCollection)
class MetricCollectionAdmin(OfApplicationAdmin):
    list_display = (
        "application",
        "organization",
        "next_window_at",
        "collected_at",
        "folded_names",
        "error",
    )


@admin.register(MetricWindow)
class MetricWindowAdmin(OfApplicationAdmin):
    list_display = ("starts_at", "organization", "application")


@admin.register(AutoscalingPolicy)
class AutoscalingPolicyAdmin(OfApplicationAdmin):
    list_display = (
        "application",
        "organization",
        "queue",
        "max_old_versions",
        "max_executors_per_old_version",
    )


@admin.register(AlertingRule)
class AlertingRuleAdmin(OfApplicationAdmin):
    list_display = (
        "rule_type",
        "organization",
        "application",
        "receiving_application",
        "last_fired_at",
    )
