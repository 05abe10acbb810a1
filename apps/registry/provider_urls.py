"""URLs of the OpenID provider, under the names by which allauth looks for them."""

from __future__ import annotations

from allauth.idp.oidc.views import jwks
from django.urls import include, path

from apps.registry import provider, views

_oidc = [
    path(
        ".well-known/openid-configuration",
        provider.configuration,
        name="configuration",
    ),
    path(".well-known/jwks.json", jwks, name="jwks"),
    path("identity/device-code", provider.DeviceCode.as_view(), name="device_code"),
    path("identity/token", provider.TokenEndpoint.as_view(), name="token"),
    path("identity/revoke", provider.Revoke.as_view(), name="revoke"),
    # Short, for it is typed by hand.
    path("device/", views.device_approve, name="device_authorization"),
]

app_name = "idp"
urlpatterns = [path("", include((_oidc, "oidc")))]
