"""URLs of the registry's pages."""

from __future__ import annotations

from django.urls import path

from apps.registry import views

app_name = "registry"

_ORG = "orgs/<slug:org>/"
_APP = _ORG + "apps/<str:app>/"
_MEMBER = _ORG + "members/<str:username>/"

urlpatterns = [
    path("orgs/", views.organization_home, name="organization_home"),
    path("new-organization/", views.organization_create, name="organization_create"),
    path(
        "invitations/<str:secret>/", views.invitation_accept, name="invitation_accept"
    ),
    # One's own account
    path("devices/", views.device_list, name="device_list"),
    path(
        "devices/<int:pk>/sign-out/",
        views.device_sign_out,
        name="device_sign_out",
    ),
    # Applications
    path(
        _ORG + "new-application/", views.application_create, name="application_create"
    ),
    path(_APP + "settings/", views.application_settings, name="application_settings"),
    path(_APP + "delete/", views.application_delete, name="application_delete"),
    # API keys
    path(_ORG + "keys/", views.key_list, name="key_list"),
    path(_ORG + "keys/new/", views.key_create, name="key_create"),
    path(_ORG + "keys/<int:pk>/revoke/", views.key_revoke, name="key_revoke"),
    # Members
    path(_ORG + "members/", views.member_list, name="member_list"),
    path(_ORG + "members/invite/", views.invitation_create, name="invitation_create"),
    path(
        _ORG + "members/invitations/<int:pk>/revoke/",
        views.invitation_revoke,
        name="invitation_revoke",
    ),
    path(_MEMBER + "role/", views.member_role, name="member_role"),
    path(_MEMBER + "remove/", views.member_remove, name="member_remove"),
    path(_ORG + "roles/new/", views.role_create, name="role_create"),
    path(_ORG + "roles/<str:role>/delete/", views.role_delete, name="role_delete"),
    path(
        _ORG + "domains/claim/",
        views.domain_claim_request,
        name="domain_claim_request",
    ),
    path(
        _ORG + "domains/<str:domain>/release/",
        views.domain_claim_release,
        name="domain_claim_release",
    ),
    # Audit
    path(_ORG + "audit/", views.audit_list, name="audit_list"),
]
