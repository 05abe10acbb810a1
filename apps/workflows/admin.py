"""Staff screens of what is known about workflows. Metadata only, and no attributes:
those are the application's own data."""

from __future__ import annotations

from django.contrib import admin

from apps.executors.admin import OfApplicationAdmin
from apps.workflows.models import SnapshotSync, WorkflowCommand, WorkflowSnapshot


@admin.register(WorkflowSnapshot)
class WorkflowSnapshotAdmin(OfApplicationAdmin):
    list_display = (
        "workflow_id",
        "organization",
        "application",
        "name",
        "status",
        "created_at",
        "seen_at",
    )
    exclude = ("attributes",)


@admin.register(SnapshotSync)
class SnapshotSyncAdmin(OfApplicationAdmin):
    list_display = ("application", "organization", "last_synced_at", "error")


@admin.register(WorkflowCommand)
class WorkflowCommandAdmin(OfApplicationAdmin):
    list_display = (
        "created_at",
        "organization",
        "application",
        "operation",
        "target_id",
        "state",
        "finished_at",
    )
