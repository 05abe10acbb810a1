"""Programs that people sign in by a code: approving, renewing, signing out."""

from __future__ import annotations

from collections.abc import Sequence

from allauth.idp.oidc.internal.oauthlib.device_codes import confirm_or_deny_device_code
from allauth.idp.oidc.models import Client, Token
from django.contrib.auth.models import User
from django.db import transaction

from apps import errors
from apps.registry import remembered
from apps.registry.auth import Actor, Traces
from apps.registry.models import Device
from apps.registry.operations import Operation, TargetType
from apps.registry.services.audit import in_order, record_audit


def decide_on_device(
    *,
    actors: Sequence[Actor],
    user: User,
    client: Client,
    device_code: str,
    source_ip: str,
    is_approved: bool,
) -> None:
    """Let a program that waits for a code sign in as a person, or not; recorded in each
    of their organizations. Raises: NotFound where it waits no longer."""
    with transaction.atomic():
        take_turns(client.pk)
        if not confirm_or_deny_device_code(user, device_code, confirm=is_approved):
            raise errors.NotFound("This code is not waited for any more.")
        for actor in in_order(actors):
            record_audit(
                actor=actor,
                operation=Operation.DEVICE_APPROVE
                if is_approved
                else Operation.DEVICE_DENY,
                target_type=TargetType.USER,
                target_id=actor.display,
                details={"program": client.name, "device_ip": source_ip},
            )


def take_turns(client_id: str) -> None:
    """Wait for what else is done with a client's codes and tokens; until the
    transaction ends.

    A poll notes in the same entry of the cache that it came, and would wipe out a
    decision made meanwhile; a renewal would bring back who is being signed out.
    """
    Client.objects.select_for_update().filter(pk=client_id).first()


def sign_in_device(
    *, access_token: Token, refresh_token: Token, traces: Traces
) -> Device:
    """Note the program that has just fetched its first tokens."""
    return Device.objects.create(
        user=access_token.user,
        client=access_token.client,
        access_token=access_token,
        refresh_token=refresh_token,
        source_ip=traces.get("source_ip", ""),
        user_agent=traces.get("user_agent", ""),
    )


def renew_device(*, device: Device, access_token: Token, refresh_token: Token) -> None:
    """Give a program its next tokens; those before open nothing any more."""
    old = device.access_token
    device.access_token, device.refresh_token = access_token, refresh_token
    device.save(update_fields=["access_token", "refresh_token"])
    if old is not None:
        old.delete()


def sign_out_device(*, actors: Sequence[Actor], device: Device) -> None:
    """Take a program's tokens away; recorded in each organization of the person. Safe
    to run twice."""
    with transaction.atomic():
        take_turns(device.client_id)
        # The tokens that it has now: it may have renewed them a moment ago.
        tokens = Device.objects.filter(pk=device.pk).values_list(
            "access_token", "refresh_token"
        )
        Token.objects.filter(pk__in=[pk for pair in tokens for pk in pair]).delete()
        Device.objects.filter(pk=device.pk).delete()
        for actor in in_order(actors):
            record_audit(
                actor=actor,
                operation=Operation.DEVICE_SIGN_OUT,
                target_type=TargetType.USER,
                target_id=actor.display,
                details={
                    "program": device.client.name,
                    "device_ip": device.source_ip,
                },
            )
        transaction.on_commit(remembered.forget)


def forget_expired_tokens() -> int:
    """Delete tokens past their time, and the programs that were signed out by it.

    Return how many tokens. Safe to run twice.
    """
    count: int = Token.objects.expired().delete()[0]
    Device.objects.filter(refresh_token=None).delete()
    return count
