"""Print the executors and the recovery ledger of one application."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from typing import Any

from django.core.management import CommandError
from django.core.management.base import BaseCommand
from django.core.serializers.json import DjangoJSONEncoder

from apps.executors.models import Executor, Recovery
from apps.registry.models import Application


class Command(BaseCommand):
    help = "Print who is connected and what was recovered, newest first."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--org", required=True)
        parser.add_argument("--app", required=True)
        parser.add_argument("--json", action="store_true")

    def handle(self, *args: Any, **options: Any) -> None:
        application = Application.objects.filter(
            organization__name=options["org"], name=options["app"]
        ).first()
        if application is None:
            raise CommandError("No such application.")
        executors = Executor.objects.filter(application=application)
        recoveries = Recovery.objects.filter(application=application)
        result: dict[str, list[Any]] = {
            "executors": list(
                executors.order_by("pk").values(
                    "executor_id", "state", "application_version"
                )
            ),
            "recoveries": list(
                recoveries.order_by("-pk").values(
                    "id",
                    "executor_id",
                    "state",
                    "disconnected_at",
                    "dead_at",
                    "requested_at",
                    "confirmed_at",
                    "taken_over_by",
                    "pending_count",
                    "pending_left",
                    "waiting_reason",
                )[:1000]
            ),
        }
        if options["json"]:
            self.stdout.write(json.dumps(result, cls=DjangoJSONEncoder))
            return
        for kind, rows in result.items():
            self.stdout.write(f"{kind}:")
            for row in rows:
                self.stdout.write("  " + "  ".join(f"{k}={v}" for k, v in row.items()))
