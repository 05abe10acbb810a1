from __future__ import annotations

from django.apps import AppConfig


class ExecutorsConfig(AppConfig):
    name = "apps.executors"
    label = "executors"
    verbose_name = "Executors"
