from __future__ import annotations

from django.apps import AppConfig


class WorkflowsConfig(AppConfig):
    name = "apps.workflows"
    label = "workflows"
    verbose_name = "Workflows"

    def ready(self) -> None:
        from apps.executors import evidence
        from apps.workflows.services import snapshots

        evidence.add_pending_source(snapshots.pending_of)
