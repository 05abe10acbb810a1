"""People who call the HTTP API."""

from __future__ import annotations

import secrets
from collections.abc import Callable

import pytest
from django.contrib.auth.models import User

from apps.registry import callers, remembered
from tests.api import Api
from tests.world import World, make_world

# Called with a username, and where not in acme, the path below which to call.
As = Callable[..., Api]


@pytest.fixture
def world(db: None) -> World:
    return make_world()


@pytest.fixture
def signed_in(monkeypatch: pytest.MonkeyPatch) -> As:
    """A person's token opens the API for them; what is changed counts at once."""
    monkeypatch.setattr(remembered, "REMEMBER_SECS", 0.0)
    tokens: dict[str, int] = {}
    monkeypatch.setattr(
        callers,
        "find_user_by_token",
        lambda token: User.objects.filter(pk=tokens.get(token)).first(),
    )

    def sign_in(username: str, base: str = "/v2/orgs/acme") -> Api:
        token = secrets.token_hex(8)
        tokens[token] = User.objects.get(username=username).pk
        return Api(token, base)

    return sign_in
