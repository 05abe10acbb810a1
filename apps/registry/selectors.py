"""Reads of the registry. Access is part of the query that fetches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from allauth.account.models import EmailAddress
from django.contrib.auth.models import AbstractBaseUser, AnonymousUser, User
from django.db.models import F, Q, QuerySet
from django.utils import timezone

from apps import errors
from apps.registry.auth import Actor
from apps.registry.keys import hash_secret
from apps.registry.models import (
    ApiKey,
    Application,
    AuditChain,
    AuditEntry,
    Device,
    DomainClaim,
    Invitation,
    Membership,
    Organization,
    Permission,
    Role,
)


def organizations_of(
    user: AbstractBaseUser | AnonymousUser,
) -> QuerySet[Organization]:
    """The organizations that a person belongs to, by name."""
    return Organization.objects.filter(memberships__user__pk=user.pk or 0).order_by(
        "name"
    )


def applications_of(actor: Actor) -> QuerySet[Application]:
    """The applications that an actor sees, by name."""
    found = Application.objects.filter(organization=actor.organization)
    if actor.application_ids is not None:
        found = found.filter(pk__in=actor.application_ids)
    return found.order_by("name")


def get_application_for(
    *, actor: Actor, name: str, permission: str | None
) -> Application:
    """Raises: NotFound for an unknown, foreign or unseen one; Forbidden, unless the
    permission is left to be asked for later (None)."""
    application = applications_of(actor).filter(name=name).first()
    if application is None:
        raise errors.NotFound("No such application.")
    if permission is not None:
        actor.require(permission, application)
    return application


def api_keys_of(actor: Actor) -> QuerySet[ApiKey]:
    actor.require(Permission.TOKEN_READ)
    keys = ApiKey.objects.filter(organization=actor.organization)
    return (
        keys.select_related("created_by")
        .prefetch_related("applications")
        .order_by(F("revoked_at").desc(nulls_first=True), "name")
    )


def get_api_key_for(*, actor: Actor, pk: int, permission: str) -> ApiKey:
    key = ApiKey.objects.filter(organization=actor.organization, pk=pk).first()
    if key is None:
        raise errors.NotFound("No such API key.")
    actor.require(permission)
    return key


def get_api_key_named(*, actor: Actor, name: str, permission: str) -> ApiKey:
    """The key that has this name now; the revoked ones have given it up."""
    actor.require(permission)
    keys = ApiKey.objects.filter(organization=actor.organization, revoked_at=None)
    key = keys.filter(name=name).first()
    if key is None:
        raise errors.NotFound("No such API key.")
    return key


def memberships_of(actor: Actor) -> QuerySet[Membership]:
    actor.require(Permission.ORGANIZATION_READ)
    members = Membership.objects.filter(organization=actor.organization)
    return members.select_related("user", "role").order_by("user__email")


def home_of(user: User) -> Membership | None:
    """The membership that stands for a person where one is asked for: of those in
    several organizations the one that they joined last."""
    members = user.memberships.select_related("user", "organization", "role")
    return members.order_by("-pk").first()


def roles_of(organization: Organization) -> QuerySet[Role]:
    """The built-in roles and the organization's own."""
    return (
        Role.objects.filter(organization=None)
        | Role.objects.filter(organization=organization)
    ).order_by("organization_id", "name")


def invitations_of(actor: Actor) -> QuerySet[Invitation]:
    """Those that were neither accepted nor revoked, newest first."""
    actor.require(Permission.ORGANIZATION_READ)
    return (
        Invitation.objects.filter(
            organization=actor.organization, accepted_at=None, revoked_at=None
        )
        .select_related("role", "created_by")
        .order_by("-id")
    )


def get_invitation_for(*, actor: Actor, pk: int, permission: str) -> Invitation:
    found = Invitation.objects.filter(organization=actor.organization, pk=pk).first()
    if found is None:
        raise errors.NotFound("No such invitation.")
    actor.require(permission)
    return found


def open_invitations(
    invitations: QuerySet[Invitation],
) -> QuerySet[Invitation]:
    """Those of them that can still be accepted."""
    return invitations.filter(
        accepted_at=None, revoked_at=None, expires_at__gt=timezone.now()
    )


def find_invitation(secret: str) -> Invitation | None:
    """The invitation that a link's secret opens, whatever its state."""
    found = Invitation.objects.filter(secret_hash=hash_secret(secret))
    return found.select_related("organization", "role").first()


def find_open_invitation(secret: str, now: datetime) -> Invitation | None:
    """The same, where it can still be accepted."""
    invitation = find_invitation(secret)
    return invitation if invitation is not None and invitation.is_open(now) else None


def devices_of(user: User) -> QuerySet[Device]:
    """The programs that are signed in as this person, the last used first."""
    return (
        Device.objects.filter(user=user, refresh_token__expires_at__gt=timezone.now())
        .select_related("client")
        .order_by("-last_used_at", "-pk")
    )


def get_device_for(*, user: User, pk: int) -> Device:
    device = devices_of(user).filter(pk=pk).first()
    if device is None:
        raise errors.NotFound("That program is not signed in any more.")
    return device


def domain_claims_of(actor: Actor) -> QuerySet[DomainClaim]:
    """By domain."""
    actor.require(Permission.ORGANIZATION_READ)
    claims = DomainClaim.objects.filter(organization=actor.organization)
    return claims.select_related("organization").order_by("domain")


def find_claim(domains: Sequence[str]) -> DomainClaim | None:
    """The approved claim on the first of these domains that has one."""
    claims = DomainClaim.objects.filter(
        domain__in=domains, status=DomainClaim.Status.APPROVED
    ).select_related("organization")
    return min(claims, key=lambda claim: domains.index(claim.domain), default=None)


def find_claim_for(user: User) -> DomainClaim | None:
    """The claim on the domain of a verified address of theirs; the primary first."""
    addresses = EmailAddress.objects.filter(user=user, verified=True)
    found = addresses.order_by("-primary", "pk").values_list("email", flat=True)
    return find_claim([domain_of(email) for email in found])


def domain_of(email: str) -> str:
    return email.rpartition("@")[2].lower()


def allows_unsigned_imports(organization: Organization) -> bool:
    """Asked of the database now: what is remembered may be a second old."""
    return Organization.objects.filter(
        pk=organization.pk, allows_unsigned_imports=True
    ).exists()


# --- The audit log -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Which entries; None leaves a thing open. `start` is within, `end` is not;
    `subject` is a name or an id, `target` an id."""

    start: datetime | None = None
    end: datetime | None = None
    operation: str | None = None
    subject: str | None = None
    target: str | None = None


def audit_entries_of(actor: Actor, chosen: AuditFilter) -> QuerySet[AuditEntry]:
    """Newest first."""
    actor.require(Permission.ORGANIZATION_READ)
    entries = AuditEntry.objects.filter(organization=actor.organization)
    if chosen.subject is not None:
        entries = entries.filter(_is_subject(entries, chosen.subject))
    if chosen.start is not None:
        entries = entries.filter(emitted_at__gte=chosen.start)
    if chosen.end is not None:
        entries = entries.filter(emitted_at__lt=chosen.end)
    if chosen.operation is not None:
        entries = entries.filter(operation=chosen.operation)
    if chosen.target is not None:
        entries = entries.filter(target_id=chosen.target)
    return entries.order_by("-emitted_at", "-sequence")


def _is_subject(entries: QuerySet[AuditEntry], subject: str) -> Q:
    """A name or an id. Hardly anything is both, and an index serves one alone."""
    by_name, by_id = Q(subject_display=subject), Q(subject_id=subject)
    if not entries.filter(by_id).exists():
        return by_name
    return by_name | by_id if entries.filter(by_name).exists() else by_id


def audit_entries_before(
    entries: QuerySet[AuditEntry], emitted_at: datetime, sequence: int
) -> QuerySet[AuditEntry]:
    """Continue a page after this entry."""
    earlier = Q(emitted_at__lt=emitted_at) | Q(sequence__lt=sequence)
    return entries.filter(earlier, emitted_at__lte=emitted_at)


def audit_chain_of(organization: Organization) -> AuditChain | None:
    return AuditChain.objects.filter(organization=organization).first()
