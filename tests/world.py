"""The people and things that tests of access share.

`alice` is acme's admin, `carol` has its built-in member role, `bob` may only read,
`zoe` belongs to it and may nothing; `mallory` is admin of another organization, `sam`
is staff and belongs to none.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from allauth.account.models import EmailAddress
from allauth.idp.oidc.models import Token
from allauth.mfa.models import Authenticator
from allauth.socialaccount.models import SocialAccount
from django.apps import apps
from django.conf import settings
from django.contrib.auth.models import Permission, User
from django.contrib.contenttypes.models import ContentType
from django.contrib.sessions.models import Session
from django.test import Client

from apps.executors import clock, gateway
from apps.executors.models import (
    Executor,
    Instance,
    PresenceClock,
    Recovery,
    RecoveryAttempt,
    RejectedConnection,
)
from apps.executors.protocol import codec
from apps.executors.protocol.messages import Request
from apps.executors.protocol.versions import Peer
from apps.monitoring.models import (
    AlertingRule,
    AutoscalingPolicy,
    MetricCollection,
    MetricWindow,
)
from apps.registry import keys, services
from apps.registry.auth import system_actor
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
    Role,
    SigningKey,
)
from apps.workflows.models import SnapshotSync, WorkflowCommand, WorkflowSnapshot

State = dict[str, list[dict[str, Any]]]

# Rows that come and go with requests that change nothing: sessions, the audit log, the
# key that is made when it is first needed; and what migrations made.
UNWATCHED = (AuditChain, AuditEntry, Session, SigningKey, ContentType, Permission)
PEOPLE = ("alice", "carol", "bob", "zoe", "mallory", "sam")
READ_ONLY = ["organization.read", "application.read", "metric.read", "token.read"]
WORKFLOW_ID = "order/1?#%~ü"
TOTP_SECRET = "a-totp-secret"
INVITATION = "an-invitation-secret"


@dataclass(frozen=True)
class World:
    """Two organizations, their people, and one of each thing in the first."""

    users: dict[str, User]
    acme: Organization
    application: Application
    key: ApiKey
    invitation: Invitation
    recovery: Recovery
    viewer: Role

    def client(self, name: str | None, **options: Any) -> Client:
        """A browser in which this person is signed in; None: nobody is."""
        client = Client(raise_request_exception=False, **options)
        if name is not None:
            client.force_login(
                self.users[name], "django.contrib.auth.backends.ModelBackend"
            )
        return client

    def membership(self, name: str) -> Membership:
        return Membership.objects.get(user=self.users[name], organization=self.acme)

    @staticmethod
    def state() -> State:
        """Every row that somebody changes, but when people last signed in."""
        return {
            model._meta.label: [
                {k: v for k, v in row.items() if k != "last_login"}
                for row in model._default_manager.order_by("pk").values()
            ]
            for model in apps.get_models()
            if model not in UNWATCHED
        }


def make_world() -> World:
    users = {
        name: User.objects.create_user(name, f"{name}@example.com", f"{name} pass word")
        for name in PEOPLE
    }
    User.objects.filter(username="sam").update(is_staff=True, is_superuser=True)
    EmailAddress.objects.bulk_create(
        EmailAddress(user=user, email=user.email, primary=True, verified=True)
        for user in users.values()
    )
    Authenticator.objects.create(
        user=User.objects.create_user("ted"), type="totp", data={"secret": TOTP_SECRET}
    )
    SocialAccount.objects.create(user=users["alice"], provider="corp", uid="a1")
    Device.objects.create(user=users["alice"], client_id="dbosctl", **_make_tokens())
    acme = services.create_organization(user=users["alice"], name="acme")
    services.create_organization(user=users["mallory"], name="other")
    viewer = Role.objects.create(
        organization=acme, name="viewer", permissions=READ_ONLY
    )
    nothing = Role.objects.create(organization=acme, name="nothing", permissions=[])
    for name, role in (
        ("carol", services.builtin_role(Role.MEMBER)),
        ("bob", viewer),
        ("zoe", nothing),
    ):
        Membership.objects.create(user=users[name], organization=acme, role=role)
    actor = system_actor(acme)
    application = services.create_application(actor=actor, name="orders")
    key, _ = services.create_api_key(actor=actor, name="k1")
    invitation = Invitation.objects.create(
        organization=acme,
        role=viewer,
        secret_hash=keys.hash_secret(INVITATION),
        expires_at=clock.now() + timedelta(days=1),
    )
    Role.objects.create(organization=acme, name="unused", permissions=[])
    DomainClaim.objects.create(
        organization=acme, domain="acme.example", requested_by="alice@example.com"
    )
    return World(users, acme, application, key, invitation, _fill(application), viewer)


def _make_tokens() -> dict[str, Token]:
    later = clock.now() + timedelta(days=1)
    return {
        name: Token.objects.create(type=kind, hash=name, expires_at=later)
        for name, kind in (("access_token", "at"), ("refresh_token", "rt"))
    }


def _fill(application: Application) -> Recovery:
    """One of everything that an application has; return its recovery."""
    now = clock.now()
    executor = {"executor_id": "x1", "application_version": "v1", "hostname": "h1"}
    Instance.objects.create(id="i1", hostname="h0")
    PresenceClock.objects.create()
    Executor.objects.create(
        application=application, connection_id="c1", instance_id="i1", **executor
    )
    recovery = Recovery.objects.create(
        application=application, dead_at=now, next_try_at=now, **executor
    )
    RecoveryAttempt.objects.create(
        recovery=recovery, executor_id="x2", started_at=now, outcome="failed"
    )
    RejectedConnection.objects.create(
        organization=application.organization,
        application_name="orderz",
        reason="unknown_application",
        status=404,
        count=3,
        first_seen_at=now,
        last_seen_at=now,
    )
    WorkflowSnapshot.objects.create(
        application=application,
        workflow_id=WORKFLOW_ID,
        status="PENDING",
        created_at=now,
        updated_at=now,
    )
    SnapshotSync.objects.create(application=application, last_synced_at=now)
    WorkflowCommand.objects.create(
        application=application, operation="workflow.cancel", workflow_ids=[WORKFLOW_ID]
    )
    MetricCollection.objects.create(
        application=application, next_window_at=now, due_at=now
    )
    MetricWindow.objects.create(application=application, starts_at=now)
    AutoscalingPolicy.objects.create(application=application, queue="q1")
    AlertingRule.objects.create(
        application=application,
        receiving_application=application,
        rule_type=AlertingRule.Type.SLOW_QUEUE,
        rule_metadata={"threshold_secs": 60},
    )
    return recovery


def answer(request: Request, orders: Sequence[Request] = ()) -> gateway.Answer:
    """What an executor that knows one workflow and does what it is told replies."""
    status = {"cancel": "CANCELLED", "delete": ""}.get(
        orders[-1].type if orders else "", "PENDING"
    )
    row = {"WorkflowUUID": WORKFLOW_ID, "Status": status, "WorkflowName": "ship"}
    output: Any = {"get_workflow": row, "list_workflows": [row]}.get(request.type, [])
    if not status:
        output = None if request.type == "get_workflow" else []
    reply = {"type": request.type, "success": True, "output": output}
    by = gateway.Target("x1", "v1", "c1", "i1", Peer("python", "3.2.0"))
    return gateway.Answer(codec.parse_reply(request, json.dumps(reply)), by)


def make_keys() -> dict[str, str]:
    """For sockets: keys, by what is the matter with them, and the session cookies of
    people. orders and billing are acme's, secret-app is of another organization."""
    organization = Organization.objects.get(name="acme")
    acme = system_actor(organization)
    users = {n: User.objects.create_user(n, f"{n}@e.com") for n in ("mallory", "zoe")}
    other = system_actor(
        services.create_organization(user=users["mallory"], name="other")
    )
    nothing = Role.objects.create(organization=organization, name="nothing")
    services.add_member(actor=acme, user=users["zoe"], role=nothing)
    users["admin"] = organization.memberships.order_by("pk")[0].user
    orders = services.create_application(actor=acme, name="orders")
    billing = services.create_application(actor=acme, name="billing")
    services.create_application(actor=other, name="secret-app")
    later = clock.now() + timedelta(days=1)

    def key(name: str, **options: Any) -> tuple[ApiKey, str]:
        actor = options.pop("actor", acme)
        return services.create_api_key(actor=actor, name=name, **options)

    made = {
        "right": key("right"),
        "to be revoked": key("to be revoked"),
        "to be expired": key("to be expired"),
        "of an application to be deleted": key(
            "doomed",
            application_names=[
                services.create_application(actor=acme, name="doomed").name
            ],
        ),
        "right, one application": key("one", application_names=[orders.name]),
        "revoked": key("revoked"),
        "expired": key("expired", expires_at=later),
        "of another application": key("billing's", application_names=[billing.name]),
        "without websocket.connect": key("reads", permissions=["application.read"]),
        "of another organization": key("other's", actor=other),
    }
    services.revoke_api_key(actor=acme, key=made["revoked"][0])
    ApiKey.objects.filter(name="expired").update(expires_at=clock.now())
    cookies = {}
    for name, user in users.items():
        client = Client()
        client.force_login(user, "django.contrib.auth.backends.ModelBackend")
        cookies[name] = client.cookies[settings.SESSION_COOKIE_NAME].value
    return {name: secret for name, (_, secret) in made.items()} | cookies


def take_keys_away() -> dict[str, bool]:
    """Take away what the last three keys of `make_keys` need; return which of them
    were used before that."""
    acme = system_actor(Organization.objects.get(name="acme"))
    made = ApiKey.objects.filter(name__in=("to be revoked", "to be expired", "doomed"))
    used = {key.name: key.last_used_at is not None for key in made}
    services.revoke_api_key(actor=acme, key=made.get(name="to be revoked"))
    made.filter(name="to be expired").update(expires_at=clock.now())
    services.delete_application(
        actor=acme, application=acme.organization.applications.get(name="doomed")
    )
    return used
