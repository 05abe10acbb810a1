"""Every URL of the site. The pages of a thing live in the app that owns the thing."""

from __future__ import annotations

from allauth.account.decorators import secure_admin_login
from django.conf import settings
from django.contrib import admin
from django.urls import include, path, register_converter

from apps.htmx import OpaqueConverter
from apps.registry.views import leave_for_provider
from conductor_site import views

register_converter(OpaqueConverter, "opaque")

# The admin's own sign-in form knows neither rate limits nor second factors.
admin.site.login = secure_admin_login(admin.site.login)  # type: ignore[method-assign]

urlpatterns = [
    path("", views.landing, name="landing"),
    path("docs", views.docs, name="docs"),
    path("healthz", views.healthz, name="healthz"),
    path("accounts/", include("allauth.account.urls")),
    path("accounts/2fa/", include("allauth.mfa.urls")),
    path("admin/", admin.site.urls),
    path("", include("apps.registry.provider_urls")),
    path("", include("apps.registry.urls")),
    path("", include("apps.executors.urls")),
    path("", include("apps.workflows.urls")),
    path("", include("apps.monitoring.urls")),
]
if settings.CONDUCTOR_OIDC_PROVIDERS:
    urlpatterns += [
        path(
            "accounts/oidc/<str:provider_id>/login/",
            leave_for_provider,
            name="openid_connect_login",
        ),
        path("accounts/connections/", include("allauth.socialaccount.urls")),
        path(
            "accounts/", include("allauth.socialaccount.providers.openid_connect.urls")
        ),
    ]

handler400 = "conductor_site.views.error_400"
handler403 = "conductor_site.views.error_403"
handler404 = "conductor_site.views.error_404"
handler500 = "conductor_site.views.error_500"
