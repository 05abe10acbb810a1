"""Staff screens of the registry: to look, hardly ever to change.

What changes state goes through the services, so that it is audited like any other.
`ReadOnlyAdmin` is what the screens of every app are made of.
"""

from __future__ import annotations

from typing import Any, ClassVar

from allauth.account.models import EmailAddress
from allauth.idp.oidc.models import Client, Token
from allauth.mfa.models import Authenticator
from allauth.socialaccount.models import SocialAccount, SocialApp, SocialToken
from django.contrib import admin, messages
from django.contrib.auth.models import Group, User
from django.core.paginator import Paginator
from django.db import models
from django.http import HttpRequest
from django.utils.functional import cached_property

from apps import errors
from apps.htmx import COUNT_LIMIT
from apps.registry import services
from apps.registry.auth import staff_actor
from apps.registry.models import (
    ApiKey,
    Application,
    AuditEntry,
    Device,
    DomainClaim,
    Invitation,
    Membership,
    Organization,
    Role,
)


class BoundedPaginator(Paginator):  # type: ignore[type-arg]
    """Counts no further than the rows that it would ever show."""

    @cached_property
    def count(self) -> int:
        rows: Any = self.object_list
        return int(rows.order_by()[:COUNT_LIMIT].count())


class ReadOnlyAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Shows rows, newest first; adds, changes and deletes none.

    Every search is a prefix of one indexed column: several would be joined by OR, which
    no index serves.
    """

    paginator = BoundedPaginator
    show_full_result_count = False
    list_per_page = list_max_show_all = 50
    ordering = ("-pk",)
    sortable_by = ()

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def get_object(
        self, request: HttpRequest, object_id: str, from_field: str | None = None
    ) -> Any:
        try:
            # An empty `_to_field` in the address is none.
            return super().get_object(request, object_id, from_field or None)
        except OverflowError:  # of SQLite, at an id beyond 64 bits
            return None

    def has_act_permission(self, request: HttpRequest) -> bool:
        """Whether this member of staff may use the actions of a list."""
        return bool(request.user.is_active and request.user.is_superuser)


# --- People ----------------------------------------------------------------------

# What Django and allauth show of people can be edited, unaudited, and shows secrets.
for model in (
    *(User, Group, EmailAddress, Authenticator),
    *(Client, Token, SocialAccount, SocialApp, SocialToken),
):
    admin.site.unregister(model)


@admin.register(User)
class UserAdmin(ReadOnlyAdmin):
    list_display = ("email", "username", "is_active", "is_staff", "last_login")
    search_fields = ("emailaddress__email__startswith",)
    search_help_text = "The beginning of an e-mail address"
    fields = (
        "username",
        "email",
        "is_active",
        "is_staff",
        "is_superuser",
        "last_login",
        "date_joined",
    )
    actions = ("deactivate", "reactivate")

    @admin.action(description="Deactivate the selected people", permissions=["act"])
    def deactivate(self, request: HttpRequest, queryset: models.QuerySet[User]) -> None:
        self._set_active(request, queryset, is_active=False)

    @admin.action(description="Reactivate the selected people", permissions=["act"])
    def reactivate(self, request: HttpRequest, queryset: models.QuerySet[User]) -> None:
        self._set_active(request, queryset, is_active=True)

    @staticmethod
    def _set_active(
        request: HttpRequest, people: models.QuerySet[User], *, is_active: bool
    ) -> None:
        for person in people.exclude(username=request.user.get_username()):
            actors = [
                staff_actor(request, membership.organization)
                for membership in person.memberships.select_related("organization")
            ]
            services.set_user_active(actors=actors, user=person, is_active=is_active)


@admin.register(EmailAddress)
class EmailAddressAdmin(ReadOnlyAdmin):
    list_display = ("email", "user", "primary", "verified")
    list_select_related = ("user",)
    search_fields = ("email__startswith",)
    search_help_text = "The beginning of an e-mail address"


@admin.register(Authenticator)
class AuthenticatorAdmin(ReadOnlyAdmin):
    list_display = ("user", "type", "created_at", "last_used_at")
    list_select_related = ("user",)
    # `data` holds the secret.
    fields = ("user", "type", "created_at", "last_used_at")


@admin.register(SocialAccount)
class SocialAccountAdmin(ReadOnlyAdmin):
    list_display = ("user", "provider", "last_login", "date_joined")
    list_select_related = ("user",)
    fields = ("user", "provider", "uid", "last_login", "date_joined")


@admin.register(Device)
class DeviceAdmin(ReadOnlyAdmin):
    list_display = ("client", "user", "source_ip", "created_at", "last_used_at")
    list_select_related = ("client", "user")
    exclude = ("access_token", "refresh_token")


# --- Organizations ---------------------------------------------------------------


@admin.register(Organization)
class OrganizationAdmin(ReadOnlyAdmin):
    list_display = ("name", "created_at")
    search_fields = ("name__startswith",)
    search_help_text = "The beginning of its name"


class OfOrganizationAdmin(ReadOnlyAdmin):
    """Things of an organization, found by it."""

    list_select_related: ClassVar[list[str] | tuple[str, ...]] = ("organization",)
    search_fields = ("organization__name__startswith",)
    search_help_text = "The beginning of an organization's name"


@admin.register(Role)
class RoleAdmin(OfOrganizationAdmin):
    list_display = ("name", "organization", "permissions")


@admin.register(Membership)
class MembershipAdmin(OfOrganizationAdmin):
    list_display = ("user", "organization", "role", "created_at")
    list_select_related = ("user", "organization", "role")


@admin.register(Invitation)
class InvitationAdmin(OfOrganizationAdmin):
    list_display = ("organization", "email", "role", "expires_at", "accepted_at")
    list_select_related = ("organization", "role")
    exclude = ("secret_hash",)


@admin.register(DomainClaim)
class DomainClaimAdmin(OfOrganizationAdmin):
    list_display = ("domain", "organization", "status", "requested_by", "requested_at")
    search_fields = ("domain__startswith",)
    search_help_text = "The beginning of a domain"
    actions = ("approve", "deny")

    @admin.action(description="Approve the selected claims", permissions=["act"])
    def approve(
        self, request: HttpRequest, queryset: models.QuerySet[DomainClaim]
    ) -> None:
        self._decide(request, queryset, is_approved=True)

    @admin.action(description="Deny the selected claims", permissions=["act"])
    def deny(
        self, request: HttpRequest, queryset: models.QuerySet[DomainClaim]
    ) -> None:
        self._decide(request, queryset, is_approved=False)

    def _decide(
        self,
        request: HttpRequest,
        claims: models.QuerySet[DomainClaim],
        *,
        is_approved: bool,
    ) -> None:
        for claim in claims.select_related("organization"):
            try:
                services.decide_domain_claim(
                    actor=staff_actor(request, claim.organization),
                    claim=claim,
                    is_approved=is_approved,
                )
            except errors.Conflict as exc:
                text = f"{claim.domain}: {exc.message}"
                self.message_user(request, text, messages.ERROR)


@admin.register(Application)
class ApplicationAdmin(OfOrganizationAdmin):
    list_display = ("name", "organization", "executor_timeout_secs", "private_mode")


@admin.register(ApiKey)
class ApiKeyAdmin(OfOrganizationAdmin):
    list_display = ("name", "organization", "prefix", "last_used_at", "revoked_at")
    search_fields = ("prefix__startswith",)
    search_help_text = "The beginning of a key's prefix: dbos_<prefix>_…"
    exclude = ("secret_hash",)
    actions = ("revoke",)

    @admin.action(description="Revoke the selected keys", permissions=["act"])
    def revoke(self, request: HttpRequest, queryset: models.QuerySet[ApiKey]) -> None:
        for key in queryset.select_related("organization"):
            services.revoke_api_key(
                actor=staff_actor(request, key.organization), key=key
            )


@admin.register(AuditEntry)
class AuditEntryAdmin(OfOrganizationAdmin):
    list_display = (
        "emitted_at",
        "organization",
        "operation",
        "outcome",
        "subject_display",
        "target_id",
    )
