"""Who calls the HTTP API: a key or a person by their bearer token, or, without
accounts, anybody.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import cast

from django.conf import settings
from django.contrib.auth.models import User
from django.http import HttpRequest
from django.utils import timezone

from apps import errors
from apps.api import InApp
from apps.registry import acquainted, auth, keys, selectors, wrong_tokens
from apps.registry.auth import Actor
from apps.registry.middleware import ensure_local_user
from apps.registry.models import ApiKey, Application, Organization
from apps.registry.remembered import arecall, recall
from apps.registry.tokens import find_user_by_token

MAX_TOKEN_CHARS = 8_192


@dataclass(frozen=True, slots=True)
class Caller:
    """An API key, or a person. `fingerprint` is the same for the same token."""

    fingerprint: str
    key: ApiKey | None = None
    user: User | None = None


class ApiRequest(HttpRequest):
    """A request of the HTTP API, which passed `ApiMiddleware`."""

    caller: Caller | errors.NotSignedIn


# --- Authentication ----------------------------------------------------------------


def authenticate(request: HttpRequest) -> Caller | errors.NotSignedIn:
    """Return who calls, or why nobody knows; for threads.

    Raises: TooManyRequests for a wrong token after many from the same address. A right
    one is never refused for what others send.
    """
    token = _token(request)
    if isinstance(token, errors.NotSignedIn):
        return token
    fingerprint = acquainted.fingerprint(token)
    found = recall(("caller", fingerprint), lambda: _find(token, fingerprint))
    return _limited(found, request)


async def aauthenticate(request: HttpRequest) -> Caller | errors.NotSignedIn:
    """`authenticate`, for the event loop."""
    token = _token(request)
    if isinstance(token, errors.NotSignedIn):
        return token
    fingerprint = acquainted.fingerprint(token)
    found = await arecall(("caller", fingerprint), lambda: _find(token, fingerprint))
    return _limited(found, request)


def _token(request: HttpRequest) -> str | errors.NotSignedIn:
    if settings.CONDUCTOR_AUTH == "none":
        return ""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token:
        return errors.NotSignedIn(
            "Send an API key or a user token: Authorization: Bearer …"
        )
    if len(token) > MAX_TOKEN_CHARS or "\0" in token:
        return errors.NotSignedIn("That is no API key and no user token.")
    return token


def _limited(
    found: Caller | errors.NotSignedIn, request: HttpRequest
) -> Caller | errors.NotSignedIn:
    if isinstance(found, errors.NotSignedIn):
        wrong_tokens.count(auth.traces(request)["source_ip"])
    else:
        acquainted.note(found.fingerprint)
    return found


def _find(token: str, fingerprint: str) -> Caller | errors.NotSignedIn:
    if settings.CONDUCTOR_AUTH == "none":
        return Caller("local", user=ensure_local_user())
    if token.startswith("dbos_"):
        return _find_key(token, fingerprint)
    try:
        user = find_user_by_token(token)
    except errors.NotSignedIn as exc:
        return exc
    if user is None:
        return errors.NotSignedIn("This token is unknown or has expired.")
    return Caller(fingerprint, user=user)


def _find_key(token: str, fingerprint: str) -> Caller | errors.NotSignedIn:
    key = keys.find_by_secret(token)
    if key is None:
        return errors.NotSignedIn("Unknown API key.")
    if key.revoked_at is not None:
        return errors.NotSignedIn(f"The API key {key.name} was revoked.")
    if key.is_expired:
        return errors.NotSignedIn(f"The API key {key.name} has expired.")
    keys.touch([key.pk], timezone.now())
    return Caller(fingerprint, key=key)


# --- Actors and applications -------------------------------------------------------


def actor_in(request: HttpRequest, organization_name: str) -> Actor:
    """Return the caller as an actor in an organization. Raises: NotSignedIn, NotFound,
    also where the organization exists but is not the caller's."""
    caller = caller_of(request)
    key = ("actor", caller.fingerprint, organization_name)
    actor = recall(key, lambda: _actor(caller, organization_name))
    return _with_traces(actor, request)


async def aactor_in(request: HttpRequest, organization_name: str) -> Actor:
    """`actor_in`, for the event loop."""
    caller = caller_of(request)
    key = ("actor", caller.fingerprint, organization_name)
    actor = await arecall(key, lambda: _actor(caller, organization_name))
    return _with_traces(actor, request)


async def aactors_of(caller: Caller) -> list[Actor]:
    """Return the caller as an actor in each of its organizations."""
    key = ("actors", caller.fingerprint)
    return await arecall(key, lambda: _actors(caller))


def _actors(caller: Caller) -> list[Actor]:
    if caller.key is not None:
        return [auth.key_actor(caller.key)]
    if caller.user is None:
        return []
    memberships = caller.user.memberships.select_related("organization", "role")
    return [auth.member_actor(one, caller.user) for one in memberships]


def application_in(
    request: HttpRequest, path: InApp, permission: str | None
) -> tuple[Actor, Application]:
    """Return the caller and the application of a path. Where `permission` is None, the
    service that is called next asks for it, and records a refusal. Raises: NotSignedIn;
    NotFound; Forbidden without the permission, or for a key of other applications."""
    actor = actor_in(request, path.org_name)
    application = _application(actor, path.app_name, permission)
    return actor, _with_database(application, request)


async def aapplication_in(
    request: HttpRequest, path: InApp, permission: str | None
) -> tuple[Actor, Application]:
    """`application_in`, for the event loop. The application may be a second old."""
    actor = await aactor_in(request, path.org_name)
    key = ("application", actor.kind, actor.id, path.org_name, path.app_name)
    application = await arecall(
        (*key, permission), lambda: _application(actor, path.app_name, permission)
    )
    return actor, _with_database(application, request)


def _with_database(application: Application, request: HttpRequest) -> Application:
    """Return it as seen in the database that the query names, if it names one."""
    label = request.GET.get("database", "")
    if label:
        # Others are given the same object.
        application = copy.copy(application)
        application.chosen_database = label
    request.application = application  # type: ignore[attr-defined]
    return application


def caller_of(request: HttpRequest) -> Caller:
    """Raises: NotSignedIn."""
    caller = cast("ApiRequest", request).caller
    if isinstance(caller, errors.NotSignedIn):
        raise caller
    return caller


def person_of(request: HttpRequest) -> User:
    """Return who calls in their own name. Raises: NotSignedIn; Forbidden for a key."""
    user = caller_of(request).user
    if user is None:
        raise errors.Forbidden(
            "This is for a person's token: an API key belongs to an organization."
        )
    return user


def _actor(caller: Caller, organization_name: str) -> Actor:
    if caller.key is not None:
        if caller.key.organization.name != organization_name:
            raise errors.NotFound("No such organization.")
        return auth.key_actor(caller.key)
    if caller.user is None:
        raise errors.NotSignedIn("Sign in first.")
    membership = auth.membership_of(caller.user, organization_name)
    return auth.member_actor(membership, caller.user)


def _with_traces(actor: Actor, request: HttpRequest) -> Actor:
    return replace(actor, **auth.traces(request))


def _application(actor: Actor, name: str, permission: str | None) -> Application:
    try:
        return selectors.get_application_for(
            actor=actor, name=name, permission=permission
        )
    except errors.NotFound:
        if actor.application_ids is not None and _exists(actor.organization, name):
            raise errors.Forbidden(
                f"This key is for other applications, not for {name}."
            ) from None
        raise


def _exists(organization: Organization, name: str) -> bool:
    return Application.objects.filter(organization=organization, name=name).exists()
