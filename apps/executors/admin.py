"""Staff screens of executors, recoveries and refused connections."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.utils.html import format_html_join

from apps.executors.models import (
    Executor,
    Instance,
    PresenceClock,
    Recovery,
    RejectedConnection,
)
from apps.registry.admin import OfOrganizationAdmin, ReadOnlyAdmin

ATTEMPTS_SHOWN = 50


class OfApplicationAdmin(ReadOnlyAdmin):
    """Things of an application, found by its organization."""

    list_select_related = ("application__organization",)
    search_fields = ("application__organization__name__startswith",)
    search_help_text = "The beginning of an organization's name"

    @admin.display(description="organization")
    def organization(self, row: Any) -> str:
        return str(row.application.organization.name)


@admin.register(Instance)
class InstanceAdmin(ReadOnlyAdmin):
    list_display = ("id", "hostname", "started_at", "beat_at")
    ordering = ("-beat_at",)


@admin.register(PresenceClock)
class PresenceClockAdmin(ReadOnlyAdmin):
    list_display = ("id", "alive_at")


@admin.register(Executor)
class ExecutorAdmin(OfApplicationAdmin):
    list_display = (
        "executor_id",
        "organization",
        "application",
        "application_version",
        "state",
        "language",
        "dbos_version",
        "connected_at",
    )


@admin.register(Recovery)
class RecoveryAdmin(OfApplicationAdmin):
    list_display = (
        "executor_id",
        "organization",
        "application",
        "application_version",
        "state",
        "dead_at",
        "confirmed_at",
        "taken_over_by",
    )
    readonly_fields = ("latest_attempts",)

    @admin.display(description="latest attempts")
    def latest_attempts(self, recovery: Recovery) -> str:
        attempts = recovery.attempt_set.order_by("-id")[:ATTEMPTS_SHOWN]
        return format_html_join(
            "",
            "<div>{} by {}: {} {}</div>",
            (
                (a.started_at.isoformat(), a.executor_id, a.outcome, a.detail)
                for a in attempts
            ),
        )


@admin.register(RejectedConnection)
class RejectedConnectionAdmin(OfOrganizationAdmin):
    list_display = (
        "organization",
        "application_name",
        "key_prefix",
        "reason",
        "count",
        "last_seen_at",
        "remote_ip",
    )
