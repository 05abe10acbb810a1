"""Make an organization, its admin, applications and a key, without a browser."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from typing import Any

from allauth.account.models import EmailAddress
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.core.management import CommandError
from django.core.management.base import BaseCommand
from django.core.validators import validate_email
from django.db import OperationalError, transaction

from apps import errors
from apps.registry import services
from apps.registry.auth import system_actor
from apps.registry.models import (
    ApiKey,
    Application,
    Organization,
    Permission,
    Role,
)
from conductor_site import server


class Command(BaseCommand):
    help = (
        "Make what is missing of an organization, its admin, its applications and a "
        "new API key. Safe to repeat, but for the key, whose name must be new."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--org", required=True)
        parser.add_argument("--email", required=True)
        parser.add_argument("--password", required=True)
        parser.add_argument("--app", action="append", default=[])
        parser.add_argument("--key-name")
        parser.add_argument(
            "--permission",
            action="append",
            choices=[p for p in Permission.values if p != Permission.TOKEN_WRITE],
            help="Of the key; repeatable. Default: websocket.connect.",
        )
        parser.add_argument("--json", action="store_true")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            # No server may have run on this database yet.
            if server.missing_migrations():
                server.migrate()
            with transaction.atomic():
                result = provision(**options)
        except errors.ConductorError as exc:
            raise CommandError(exc.message) from exc
        except server.StartError as exc:
            raise CommandError(str(exc)) from exc
        except OperationalError as exc:
            raise CommandError(f"The database does not answer: {exc}") from exc
        if options["json"]:
            self.stdout.write(json.dumps(result))
            return
        for name, value in result.items():
            self.stdout.write(f"{name}: {value}")


def provision(
    *,
    org: str,
    email: str,
    password: str,
    app: list[str],
    key_name: str | None,
    permission: list[str] | None,
    **_: Any,
) -> dict[str, Any]:
    """Make what is missing and return `{"org", "apps", "key", "email"}`."""
    user = _ensure_user(email, password)
    organization = Organization.objects.filter(name=org).first()
    if organization is None:
        organization = services.create_organization(user=user, name=org)
    actor = system_actor(organization)
    if not organization.memberships.filter(user=user).exists():
        services.add_member(
            actor=actor, user=user, role=services.builtin_role(Role.ADMIN)
        )
    for name in app:
        if not Application.objects.filter(
            organization=organization, name=name
        ).exists():
            services.create_application(actor=actor, name=name)
    secret = None
    if key_name is not None:
        keys = ApiKey.objects.filter(organization=organization, revoked_at=None)
        if keys.filter(name=key_name).exists():
            raise errors.Conflict(
                f"An API key named {key_name!r} exists already, and its secret was "
                "shown when it was made. Choose another --key-name."
            )
        secret = services.create_api_key(
            actor=actor, name=key_name, permissions=permission
        )[1]
    return {"org": org, "apps": app, "key": secret, "email": email}


def _ensure_user(email: str, password: str) -> User:
    """Find or make the user; their address counts as verified. An existing password is
    left alone."""
    email = email.lower()
    try:
        validate_email(email)
    except ValidationError as exc:
        raise errors.InvalidInput(f"{email!r} is no e-mail address.") from exc
    user = User.objects.filter(email__iexact=email).first()
    if user is None:
        user = User.objects.create_user(
            username=services.free_username(email), email=email, password=password
        )
    EmailAddress.objects.get_or_create(
        user=user, email=email, defaults={"verified": True, "primary": True}
    )
    return user
