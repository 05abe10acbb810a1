"""People: their names, and the way to their first organization."""

from __future__ import annotations

from django.conf import settings
from django.contrib.auth.models import User
from django.db import transaction

from apps import errors
from apps.registry.auth import NO_TRACES, Traces
from apps.registry.models import Membership, Profile
from apps.registry.services.members import accept_invitation, join_by_domain
from apps.registry.services.organizations import (
    create_organization,
    free_organization_name,
)
from apps.registry.services.rows import free_name, unique, validate


def register_user(
    *,
    user: User,
    name: str,
    given_name: str = "",
    family_name: str = "",
    company: str = "",
    secret: str | None = None,
    traces: Traces = NO_TRACES,
) -> None:
    """Take a signed-in person up: as `name`, and into an organization; that of an
    invitation's secret, else that which claimed their domain, else one of their own.

    Their names stay also where the secret opens nothing. Raises: Conflict for who is a
    member already, or a name that is taken; Forbidden without a secret where people
    join by invitation (`CONDUCTOR_SIGNUP`); as `accept_invitation`.
    """
    user = User.objects.get(pk=user.pk)
    if user.memberships.exists():
        raise errors.Conflict("You are registered already.")
    names = {"username": name, "first_name": given_name, "last_name": family_name}
    for field, value in names.items():
        setattr(user, field, value)
    validate(user, *names)
    validate(Profile(user=user, company=company), "company")
    with unique():
        user.save(update_fields=list(names))
        Profile.objects.update_or_create(user=user, defaults={"company": company})
    if secret is not None:
        accept_invitation(user=user, secret=secret, traces=traces)
    else:
        is_open = settings.CONDUCTOR_SIGNUP == "open"
        settle(user=user, wanted=name, may_found=is_open, traces=traces)


def settle(
    *, user: User, wanted: str, may_found: bool = True, traces: Traces = NO_TRACES
) -> None:
    """Give a person their first organization: that which claimed the domain of a
    verified address of theirs, else one of their own, named like `wanted`. Raises:
    Conflict for who has one; Forbidden for who may found none."""
    with transaction.atomic():
        # Whoever registers twice at once gets one organization.
        User.objects.select_for_update().get(pk=user.pk)
        if Membership.objects.filter(user=user).exists():
            raise errors.Conflict("You are registered already.")
        if join_by_domain(user=user, traces=traces) is None:
            if not may_found:
                raise errors.Forbidden(
                    "People join by invitation here. Send the secret of yours."
                )
            name = free_organization_name(wanted)
            create_organization(user=user, name=name, traces=traces)


def free_username(wanted: str) -> str:
    """Return a valid name near `wanted`, which may be an address, that nobody has."""
    return free_name(
        wanted.partition("@")[0],
        "user",
        lambda name: User.objects.filter(username=name).exists(),
    )
