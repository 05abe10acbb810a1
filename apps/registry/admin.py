"""Staff screens of the registry: to look, hardly ever to change.

What changes state goes through the services, so that it is audited like any other.
"""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db import models
from django.http import HttpRequest

from apps.registry import services
from apps.registry.auth import system_actor
from apps.registry.models import (
    ApiKey,
    Application,
    AuditEntry,
    Invitation,
    Membership,
    Organization,
    Role,
)


class ReadOnlyAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Shows rows; adds, changes and deletes none."""

    show_full_result_count = False

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(Organization)
class OrganizationAdmin(ReadOnlyAdmin):
    list_display = ("name", "created_at")
    search_fields = ("name",)


@admin.register(Role)
class RoleAdmin(ReadOnlyAdmin):
    list_display = ("name", "organization", "permissions")


@admin.register(Membership)
class MembershipAdmin(ReadOnlyAdmin):
    list_display = ("user", "organization", "role", "created_at")
    list_select_related = ("user", "organization", "role")
    search_fields = ("user__email", "organization__name")


@admin.register(Invitation)
class InvitationAdmin(ReadOnlyAdmin):
    list_display = ("organization", "email", "role", "expires_at", "accepted_at")
    list_select_related = ("organization", "role")
    exclude = ("secret_hash",)


@admin.register(Application)
class ApplicationAdmin(ReadOnlyAdmin):
    list_display = ("name", "organization", "executor_timeout_secs", "private_mode")
    list_select_related = ("organization",)
    search_fields = ("name", "organization__name")


@admin.register(ApiKey)
class ApiKeyAdmin(ReadOnlyAdmin):
    list_display = ("name", "organization", "prefix", "last_used_at", "revoked_at")
    list_select_related = ("organization",)
    search_fields = ("name", "prefix", "organization__name")
    exclude = ("secret_hash",)
    actions = ("revoke",)

    def has_revoke_permission(self, request: HttpRequest) -> bool:
        return bool(request.user.is_active and request.user.is_superuser)

    @admin.action(description="Revoke the selected keys", permissions=["revoke"])
    def revoke(self, request: HttpRequest, queryset: models.QuerySet[ApiKey]) -> None:
        for key in queryset.select_related("organization"):
            services.revoke_api_key(actor=system_actor(key.organization), key=key)


@admin.register(AuditEntry)
class AuditEntryAdmin(ReadOnlyAdmin):
    list_display = (
        "emitted_at",
        "organization",
        "operation",
        "outcome",
        "subject_display",
        "target_id",
    )
    list_select_related = ("organization",)
    list_filter = ("outcome",)
    search_fields = ("operation", "subject_display", "target_id")
