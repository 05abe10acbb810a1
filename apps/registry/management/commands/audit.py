"""Verify that the audit logs are what was written."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from dataclasses import asdict
from typing import Any

from django.core.management import CommandError
from django.core.management.base import BaseCommand

from apps.registry import verification
from apps.registry.models import Organization
from apps.registry.verification import Verification


class Command(BaseCommand):
    help = "Verify that the audit logs are what was written: exit 0, else 1."

    def add_arguments(self, parser: ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True)
        verify = actions.add_parser("verify", help=self.help)
        verify.add_argument("--org", help="only this organization")
        verify.add_argument("--json", action="store_true")

    def handle(self, *args: Any, **options: Any) -> None:
        organizations = Organization.objects.order_by("name")
        if options["org"] is not None:
            organizations = organizations.filter(name=options["org"])
            if not organizations.exists():
                raise CommandError("No such organization.", returncode=2)
        write = self._write_json if options["json"] else self._write
        broken = 0
        for organization in organizations.iterator():
            result = verification.verify(organization)
            write(result)
            broken += not result.is_good
        if broken:
            raise CommandError(f"{broken} of the audit logs are not what was written.")

    def _write(self, result: Verification) -> None:
        if result.is_good:
            self.stdout.write(
                f"{result.organization}: good, {result.entries} entries to "
                f"#{result.last_sequence} {result.last_hash}"
            )
        else:
            self.stdout.write(
                f"{result.organization}: broken at #{result.broken_sequence}. "
                f"{result.finding}"
            )

    def _write_json(self, result: Verification) -> None:
        """One object a line, for each organization."""
        self.stdout.write(json.dumps(asdict(result)))
