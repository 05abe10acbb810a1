"""Conductor as an OpenID provider, for one thing: the device grant (RFC 8628).

django-allauth does the protocol. Here is what it leaves to us: whose program a token
belongs to, that attempts are limited, and that bad input is an answer.
"""

from __future__ import annotations

import json
from typing import Any, cast

from allauth.core.internal import ratelimit
from allauth.idp.oidc.adapter import DefaultOIDCAdapter
from allauth.idp.oidc.models import Client, PrivateKey, Token
from allauth.idp.oidc.views import DeviceCodeView, RevokeView, TokenView
from django.core.cache import cache
from django.core.exceptions import ValidationError
from django.db import transaction
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import reverse
from django.utils.decorators import method_decorator
from django.views import View
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_GET

from apps.registry import auth, services, signing, tokens

GRANTS = (Client.GrantType.DEVICE_CODE.value, Client.GrantType.REFRESH_TOKEN.value)
FORM = "application/x-www-form-urlencoded"
CODE_LETTERS = 8
SCOPES = ("openid", "profile", "email", "offline_access")


class ProviderAdapter(DefaultOIDCAdapter):  # type: ignore[misc]
    def list_private_keys(self, **_: Any) -> list[PrivateKey]:
        return [PrivateKey(pem=signing.private_key_pem())]


@require_GET
def configuration(request: HttpRequest) -> JsonResponse:
    """What is there; allauth's own would name endpoints that are not."""

    def url(name: str) -> str:
        return request.build_absolute_uri(reverse(f"idp:oidc:{name}"))

    return JsonResponse(
        {
            "issuer": ProviderAdapter(request).get_issuer(),
            "device_authorization_endpoint": url("device_code"),
            "token_endpoint": url("token"),
            "revocation_endpoint": url("revoke"),
            "jwks_uri": url("jwks"),
            "grant_types_supported": GRANTS,
            "scopes_supported": SCOPES,
            "response_types_supported": [],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "token_endpoint_auth_methods_supported": ["none"],
        }
    )


@method_decorator(csrf_exempt, name="dispatch")
class _Endpoint(View):
    """An endpoint for programs: whatever they send, they get JSON back."""

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        if request.content_type != FORM or request.GET:
            return _refusal("invalid_request")
        if any("\0" in value for value in request.POST.values()):
            return _refusal("invalid_request")
        # oauthlib takes no charset beside it.
        request.META["CONTENT_TYPE"] = FORM
        try:
            return super().dispatch(request, *args, **kwargs)  # type: ignore[return-value]
        except ValidationError:
            # Of `resource` (RFC 8707), which allauth parses outside of its own net.
            return _refusal("invalid_target")


class DeviceCode(_Endpoint, DeviceCodeView):  # type: ignore[misc]
    """Where a program begins: it gets a code for itself, and one for its person."""

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        if not ratelimit.consume(request, app="allauth.idp.oidc", action="device_code"):
            return _refusal("slow_down", status=429)
        response: HttpResponse = super().post(request, *args, **kwargs)
        if response.status_code == 200:
            issued = json.loads(response.content)
            cache.set(
                _origin_key(issued["user_code"]),
                auth.traces(request),
                timeout=issued["expires_in"],
            )
        return response


class TokenEndpoint(_Endpoint, TokenView):  # type: ignore[misc]
    """Where a program fetches its tokens, and their successors."""

    @transaction.atomic
    def post(self, request: HttpRequest) -> HttpResponse:
        services.take_turns(request.POST.get("client_id", ""))
        device = tokens.find_device_to_renew(request.POST.get("refresh_token", ""))
        is_renewal = request.POST.get("grant_type") == Client.GrantType.REFRESH_TOKEN
        if is_renewal and device is None:
            return _refusal("invalid_grant")
        response: HttpResponse = super().post(request)
        if response.status_code == 200:
            issued = json.loads(response.content)
            pair = {
                "access_token": _token(issued["access_token"]),
                "refresh_token": _token(issued["refresh_token"]),
            }
            if device is None:
                services.sign_in_device(**pair, traces=auth.traces(request))
            else:
                services.renew_device(device=device, **pair)
        return response


class Revoke(_Endpoint, RevokeView):  # type: ignore[misc]
    """Where a program signs itself out."""


def as_shown(user_code: str) -> str:
    """A code as a program shows it, however a person wrote it (RFC 8628, 6.1)."""
    letters = "".join(c for c in user_code.upper() if c.isalnum())[:CODE_LETTERS]
    return f"{letters[:4]}-{letters[4:]}"


def origin_of(user_code: str) -> auth.Traces:
    """Where the program is that showed this code; nothing where nobody knows."""
    return cast("auth.Traces", cache.get(_origin_key(user_code)) or {})


def _origin_key(user_code: str) -> str:
    return f"device-origin:{user_code}"


def _token(value: str) -> Token:
    return Token.objects.by_value(value).select_related("user", "client").get()


def _refusal(error: str, status: int = 400) -> HttpResponse:
    """An error as RFC 6749 section 5.2 has it."""
    return JsonResponse({"error": error}, status=status)
