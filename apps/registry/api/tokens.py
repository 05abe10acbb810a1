"""Operations of the HTTP API: API keys, which it calls tokens."""

from __future__ import annotations

from typing import Annotated

from django.http import HttpRequest
from ninja import Path, Router
from pydantic import AfterValidator, Field

from apps.api import ORG, InOrg, Input, Output, Text, Time, omitted, operation
from apps.registry import selectors, services
from apps.registry.callers import actor_in
from apps.registry.models import Permission

router = Router()

TOKENS = f"{ORG}/tokens"
TOKEN = f"{TOKENS}/{{tokenName}}"
MAX_APPS = 1_000


def _each_once(names: list[str]) -> list[str]:
    if len(set(names)) < len(names):
        raise ValueError("A name is there twice.")
    return names


TokenName = Annotated[Text, Field(min_length=1, max_length=100)]
AppNames = Annotated[
    list[Text],
    Field(max_length=MAX_APPS, json_schema_extra={"uniqueItems": True}),
    AfterValidator(_each_once),
]


class InToken(InOrg):
    token_name: TokenName


class Token(Output):
    """A key without its secret. No `appIds`: it is for every application."""

    token_name: str
    created_at: Time
    permissions: list[str]
    app_ids: list[str]
    expires_at: Time | None = omitted()


class CreateTokenInputBody(Input):
    app_names: AppNames | None = None
    permissions: list[Text] | None = None
    expires_at: Time | None = None


class TokenCreated(Output):
    """A new key with its secret, which is never told again."""

    token: str
    token_name: str


class UpdateTokenInputBody(Input):
    new_name: TokenName


@operation(
    router,
    "GET",
    TOKENS,
    "listTokens",
    permission=Permission.TOKEN_READ,
    tag="Tokens",
    response=list[Token],
)
def list_tokens(request: HttpRequest, path: Path[InOrg]) -> list[Token]:
    """Also those that have expired; not the revoked."""
    rows = selectors.api_keys_of(actor_in(request, path.org_name))
    return [
        Token(
            token_name=row.name,
            created_at=row.created_at,
            permissions=row.permissions,
            app_ids=[str(application.pk) for application in row.applications.all()],
            expires_at=row.expires_at,
        )
        for row in rows.filter(revoked_at=None)
    ]


@operation(
    router,
    "POST",
    TOKEN,
    "createToken",
    permission=Permission.TOKEN_WRITE,
    tag="Tokens",
    response=TokenCreated,
    status=201,
)
def create_token(
    request: HttpRequest,
    path: Path[InToken],
    body: CreateTokenInputBody | None = None,
) -> TokenCreated:
    """A key, whose secret is in this answer and never again. Without permissions it may
    connect executors and nothing else; without applications it is for all."""
    row, secret = services.create_api_key(
        actor=actor_in(request, path.org_name),
        name=path.token_name,
        permissions=body.permissions if body else None,
        application_names=body.app_names if body else None,
        expires_at=body.expires_at if body else None,
    )
    return TokenCreated(token=secret, token_name=row.name)


@operation(
    router,
    "PATCH",
    TOKEN,
    "updateToken",
    permission=Permission.TOKEN_WRITE,
    tag="Tokens",
    status=204,
)
def update_token(
    request: HttpRequest, path: Path[InToken], body: UpdateTokenInputBody
) -> None:
    """Rename a key; its secret stays. 409 where another key has that name."""
    services.rename_api_key(
        actor=actor_in(request, path.org_name),
        name=path.token_name,
        new_name=body.new_name,
    )


@operation(
    router,
    "DELETE",
    TOKEN,
    "deleteToken",
    permission=Permission.TOKEN_WRITE,
    tag="Tokens",
    status=204,
)
def delete_token(request: HttpRequest, path: Path[InToken]) -> None:
    """What used the key is refused from now on."""
    services.delete_api_key(
        actor=actor_in(request, path.org_name), name=path.token_name
    )
