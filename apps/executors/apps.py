from __future__ import annotations

from django.apps import AppConfig


class ExecutorsConfig(AppConfig):
    name = "apps.executors"
    label = "executors"
    verbose_name = "Executors"

    def ready(self) -> None:
        from apps.executors import runtime, tasks

        runtime.on_recovery_woken(tasks.nudge)
