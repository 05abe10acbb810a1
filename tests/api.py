"""The HTTP API as a test calls it: with a key, through Django's client."""

from __future__ import annotations

import secrets
from typing import Any

from django.test import Client

from apps.registry import services
from apps.registry.auth import system_actor
from apps.registry.models import Application, Organization

PROBLEM = "application/problem+json"


class Api:
    """Calls below `base` with one key or token; without one where it is empty."""

    def __init__(self, secret: str, base: str = "/v2/orgs/acme") -> None:
        self.base = base
        headers = {"Authorization": f"Bearer {secret}"} if secret else {}
        self.client = Client(headers=headers, raise_request_exception=False)

    def send(self, method: str, path: str, body: Any = None) -> Any:
        """Return the answer; what is no 2xx is a problem, always."""
        data = () if body is None else (body,)
        call = getattr(self.client, method.lower())
        answer = call(f"{self.base}{path}", *data, content_type="application/json")
        if answer.status_code >= 300:
            assert answer["Content-Type"] == PROBLEM
            assert answer.json()["status"] == answer.status_code
        return answer

    def get(self, path: str) -> Any:
        """Return what is there."""
        answer = self.client.get(f"{self.base}{path}")
        assert answer.status_code == 200, answer.content
        return answer.json()

    def status(self, method: str, path: str, body: Any = None) -> int:
        status: int = self.send(method, path, body).status_code
        return status


def make_key(*permissions: str, applications: list[Application] | None = None) -> str:
    """Make a key of acme with these permissions, and return its secret."""
    names = None if applications is None else [one.name for one in applications]
    _, secret = services.create_api_key(
        actor=system_actor(Organization.objects.get(name="acme")),
        name=f"key {secrets.token_hex(4)}",
        permissions=list(permissions) or None,
        application_names=names,
    )
    return secret
