"""Who may do what: one row for each route and method. A route without a row fails."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, cast
from unittest import mock

import pytest
from django.apps import apps
from django.core import mail
from django.db import DatabaseError, transaction
from django.test import Client
from django.urls import URLResolver, get_resolver, reverse
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from apps.executors import gateway
from apps.executors.protocol.messages import Request
from apps.executors.routing import websocket_urlpatterns
from apps.registry.models import Application, AuditEntry, Role
from apps.workflows.models import WorkflowCommand, WorkflowSnapshot
from benchmarks.stack import wait_until
from tests.e2e.world import Embedded
from tests.world import INVITATION, WORKFLOW_ID, State, World, answer, make_world

# --- The matrix --------------------------------------------------------------------

# The columns: nobody signed in; a member of another organization; staff without a
# membership; members whose role holds nothing, only the reads, the built-in member's
# permissions, and all of them.
COLUMNS = (None, "mallory", "sam", "zoe", "bob", "carol", "alice")

TO_SIGN_IN = 302
Expected = dict[str | None, int]


def each(*statuses: int) -> Expected:
    """One status for each column."""
    return dict(zip(COLUMNS, statuses, strict=True))


READ = each(TO_SIGN_IN, 404, 404, 403, 200, 200, 200)


def write(ok: int) -> Expected:
    """Needs application.write or token.write: the built-in roles have both."""
    return each(TO_SIGN_IN, 404, 404, 403, 403, ok, ok)


def govern(ok: int) -> Expected:
    """Needs organization.write: admins only."""
    return each(TO_SIGN_IN, 404, 404, 403, 403, 403, ok)


def signed_in(ok: int) -> Expected:
    return each(TO_SIGN_IN, ok, ok, ok, ok, ok, ok)


def same(status: int) -> Expected:
    return each(*[status] * len(COLUMNS))


def staff(status: int, *, member: int = TO_SIGN_IN) -> Expected:
    """Of the admin site, which sends everybody else to its sign-in."""
    return {None: TO_SIGN_IN, "alice": member, "sam": status}


@dataclass(frozen=True)
class Row:
    # The route's name, or its pattern where it has none.
    route: str
    method: str
    expected: Expected
    data: dict[str, Any] = field(default_factory=dict)
    # Which thing of the world the route's `pk` or `object_id` is.
    of: str = ""
    # For a route without a name.
    path: str = ""

    def url(self, world: World, org: str = "acme") -> str:
        known = {
            "org": org,
            "app": "orders",
            "workflow_id": WORKFLOW_ID,
            "secret": INVITATION,
            "uidb36": "1",
            "key": "a-key",
            "username": "bob",
            "role": "unused",
            "domain": "acme.example",
            "content_type_id": "1",
            "object_id": "1",
            "app_label": "registry",
        }
        if self.of:
            known["pk"] = known["object_id"] = str(_pk(world, self.of))
        if self.path:
            return self.path.format(**known)
        return reverse(
            self.route, kwargs={name: known[name] for name in ROUTES[self.route]}
        )

    def fields(self, world: World) -> dict[str, Any]:
        """The form's values; a role is written by its name."""
        role = self.data.get("role")
        if role is None:
            return self.data
        return {**self.data, "role": Role.objects.get(name=role).pk}

    def __str__(self) -> str:
        return f"{self.method} {self.route}"


def _pk(world: World, of: str) -> Any:
    match of:
        case "key" | "invitation" | "recovery":
            return getattr(world, of).pk
        case _:
            row = apps.get_model(of)._default_manager.order_by("pk").first()
            assert row is not None, f"the world has no {of}"
            return row.pk


TICKED = {"id": [WORKFLOW_ID], "confirmed": "on"}

CONSOLE = (
    Row("landing", "GET", each(200, 302, 302, 302, 302, 302, 302)),
    Row("docs", "GET", same(200)),
    Row("healthz", "GET", same(200)),
    Row("monitoring:health_metrics", "GET", each(404, 404, 200, 404, 404, 404, 404)),
    Row("registry:organization_home", "GET", signed_in(302)),
    Row("registry:organization_create", "GET", signed_in(200)),
    Row("registry:organization_create", "POST", signed_in(302), {"name": "newcorp"}),
    Row("registry:invitation_accept", "GET", same(200)),
    Row(
        "registry:invitation_accept",
        "POST",
        each(302, 302, 302, 409, 409, 409, 409),
    ),
    # Applications
    Row("registry:application_create", "GET", write(200)),
    Row("registry:application_create", "POST", write(302), {"name": "billing"}),
    Row("registry:application_settings", "GET", write(200)),
    Row(
        "registry:application_settings",
        "POST",
        write(302),
        {"executor_timeout_secs": 77},
    ),
    Row("registry:application_delete", "POST", write(302), {"confirm": "orders"}),
    # API keys
    Row("registry:key_list", "GET", READ),
    Row("registry:key_create", "GET", write(200)),
    Row(
        "registry:key_create",
        "POST",
        write(200),
        {"name": "k2", "permissions": ["websocket.connect"]},
    ),
    Row("registry:key_revoke", "POST", write(302), of="key"),
    # Members
    Row("registry:member_list", "GET", READ),
    Row("registry:invitation_create", "POST", govern(200), {"role": "viewer"}),
    Row("registry:invitation_revoke", "POST", govern(302), of="invitation"),
    Row("registry:member_role", "POST", govern(302), {"role": "nothing"}),
    Row("registry:member_remove", "POST", govern(302)),
    Row("registry:role_create", "POST", govern(302), {"name": "auditor"}),
    Row("registry:role_delete", "POST", govern(302)),
    Row(
        "registry:domain_claim_request",
        "POST",
        govern(302),
        {"domain": "corp.example"},
    ),
    Row("registry:domain_claim_release", "POST", govern(302)),
    Row("registry:audit_list", "GET", READ),
    # One's own account
    Row("registry:device_list", "GET", signed_in(200)),
    Row(
        "registry:device_sign_out",
        "POST",
        each(302, 404, 404, 404, 404, 404, 302),
        of="registry.Device",
    ),
    # Executors
    Row("executors:application_list", "GET", READ),
    Row("executors:rejected_list", "GET", READ),
    Row("executors:application_detail", "GET", READ),
    Row("executors:application_connect", "GET", READ),
    Row("executors:executor_table_fragment", "GET", READ),
    Row("executors:connection_fragment", "GET", READ),
    Row("executors:recovery_list", "GET", READ),
    Row("executors:recovery_detail", "GET", READ, of="recovery"),
    Row("executors:recovery_retry", "POST", write(302), of="recovery"),
    # Workflows
    Row("workflows:workflow_list", "GET", READ),
    Row("workflows:workflow_detail", "GET", READ),
    Row("workflows:workflow_cancel", "GET", write(200)),
    Row("workflows:workflow_cancel", "POST", write(302)),
    Row("workflows:workflow_resume", "GET", write(200)),
    Row("workflows:workflow_resume", "POST", write(302)),
    Row("workflows:workflow_fork", "GET", write(200)),
    Row("workflows:workflow_fork", "POST", write(302), {"start_step": 1}),
    Row("workflows:workflow_delete", "GET", write(200)),
    Row("workflows:workflow_delete", "POST", write(302)),
    Row("workflows:workflow_bulk_cancel", "POST", write(200), TICKED),
    Row("workflows:workflow_bulk_resume", "POST", write(200), TICKED),
    Row("workflows:workflow_bulk_delete", "POST", write(200), TICKED),
)

ACCOUNTS = (
    Row("account_login", "GET", each(200, 302, 302, 302, 302, 302, 302)),
    Row("account_signup", "GET", each(200, 302, 302, 302, 302, 302, 302)),
    Row("account_logout", "GET", each(302, 200, 200, 200, 200, 200, 200)),
    Row("account_inactive", "GET", same(200)),
    Row("account_reauthenticate", "GET", signed_in(200)),
    Row("account_email", "GET", signed_in(200)),
    Row("account_email_verification_sent", "GET", same(200)),
    Row("account_confirm_email", "GET", same(200)),
    Row("account_change_password", "GET", signed_in(200)),
    Row("account_set_password", "GET", signed_in(302)),
    Row("account_reset_password", "GET", same(200)),
    Row("account_reset_password_done", "GET", same(200)),
    Row("account_reset_password_from_key", "GET", same(200)),
    Row("account_reset_password_from_key_done", "GET", same(200)),
    Row("account_confirm_login_code", "GET", same(302)),
    Row("mfa_index", "GET", signed_in(200)),
    Row("mfa_authenticate", "GET", same(302)),
    Row("mfa_reauthenticate", "GET", signed_in(302)),
    Row("mfa_activate_totp", "GET", signed_in(302)),
    Row("mfa_deactivate_totp", "GET", signed_in(404)),
    Row("mfa_view_recovery_codes", "GET", signed_in(404)),
    Row("mfa_generate_recovery_codes", "GET", signed_in(302)),
    Row("mfa_download_recovery_codes", "GET", signed_in(404)),
)

# For programs, which are no person; what a code leads to, `test_devices.py` shows.
PROVIDER = (
    Row("idp:oidc:configuration", "GET", same(200)),
    Row("idp:oidc:jwks", "GET", same(200)),
    Row("idp:oidc:device_code", "POST", same(400)),
    Row("idp:oidc:token", "POST", same(400)),
    Row("idp:oidc:revoke", "POST", same(400)),
    Row("idp:oidc:device_authorization", "GET", signed_in(200)),
    Row("idp:oidc:device_authorization", "POST", signed_in(200)),
)

# The admin site shows its models; what it may change, it changes by actions of a list.
ADMIN_MODELS = (
    "auth.User",
    "account.EmailAddress",
    "mfa.Authenticator",
    "socialaccount.SocialAccount",
    "registry.Device",
    "registry.Organization",
    "registry.Role",
    "registry.Membership",
    "registry.Invitation",
    "registry.DomainClaim",
    "registry.Application",
    "registry.ApiKey",
    "registry.AuditEntry",
    "executors.Instance",
    "executors.PresenceClock",
    "executors.Executor",
    "executors.Recovery",
    "executors.RejectedConnection",
    "workflows.WorkflowSnapshot",
    "workflows.SnapshotSync",
    "workflows.WorkflowCommand",
    "monitoring.MetricCollection",
    "monitoring.MetricWindow",
    "monitoring.AutoscalingPolicy",
    "monitoring.AlertingRule",
)


def _admin_name(label: str) -> str:
    return label.replace(".", "_").lower()


ADMIN_SITE = (
    Row("admin:index", "GET", staff(200)),
    Row("admin:login", "GET", staff(302, member=403)),
    Row("admin:logout", "POST", staff(200)),
    Row("admin:password_change", "GET", staff(200)),
    Row("admin:password_change_done", "GET", staff(200)),
    Row("admin:autocomplete", "GET", staff(403)),
    Row("admin:jsi18n", "GET", staff(200)),
    Row("admin:view_on_site", "GET", staff(404)),
    Row("admin:app_list", "GET", staff(200)),
    Row("admin/(?P<url>.*)$", "GET", staff(404), path="/admin/no/such/page"),
    *(
        Row(f"admin:{_admin_name(label)}_{page}", "GET", staff(status), of=label)
        for label in ADMIN_MODELS
        for page, status in (
            ("changelist", 200),
            ("add", 403),
            ("change", 200),
            ("delete", 403),
            ("history", 200),
        )
    ),
    *(
        Row(
            f"admin/{_admin_name(label).replace('_', '/')}/<path:object_id>/",
            "GET",
            staff(302),
            of=label,
            path=f"/admin/{_admin_name(label).replace('_', '/')}/{{object_id}}/",
        )
        for label in ADMIN_MODELS
    ),
)

ROWS = (*CONSOLE, *ACCOUNTS, *PROVIDER, *ADMIN_SITE)
MUTATIONS = [row for row in CONSOLE if row.method == "POST"]
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


def _walk(
    resolver: URLResolver, namespace: str, prefix: str, given: frozenset[str]
) -> Iterator[tuple[str, frozenset[str]]]:
    for entry in resolver.url_patterns:
        names = given | set(entry.pattern.regex.groupindex)
        path = f"{prefix}{entry.pattern}"
        if isinstance(entry, URLResolver):
            inner = f"{namespace}{entry.namespace}:" if entry.namespace else namespace
            yield from _walk(entry, inner, path, names)
        else:
            yield f"{namespace}{entry.name}" if entry.name else path, names


# Every route of the URLconf, with the names of its parameters.
ROUTES = dict(_walk(get_resolver(), "", "", frozenset()))


# --- The rules ---------------------------------------------------------------------


@pytest.fixture
def world(db: None) -> World:
    return make_world()


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[Request]:
    """The orders that reached an executor; every question is answered."""
    orders: list[Request] = []

    def told(application: Application, request: Request, **_: Any) -> gateway.Answer:
        if not request.read_only:
            orders.append(request)
        return answer(request, orders)

    monkeypatch.setattr(gateway, "answer", told)
    return orders


def _request(client: Client, row: Row, world: World, **more: Any) -> Any:
    send = client.post if row.method == "POST" else client.get
    return send(row.url(world, **more), row.fields(world))


def test_every_route_has_a_row() -> None:
    listed = {row.route for row in ROWS}

    assert set(ROUTES) - listed == set(), "give these routes a row"
    assert listed - set(ROUTES) == set(), "these routes are gone"


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_access(world: World, sent: list[Request], row: Row) -> None:
    statuses: Expected = {}
    before = world.state()

    for name in row.expected:
        with _rolled_back():
            statuses[name] = _ask_as(name, row, world, sent, before)

    assert statuses == row.expected


def _ask_as(
    name: str | None, row: Row, world: World, sent: list[Request], before: State
) -> int:
    """Ask as this person; check what it did and did not change. Return the status."""
    client, audited = world.client(name), AuditEntry.objects.count()
    sent.clear()

    response = _request(client, row, world)

    status = int(response.status_code)
    entries = list(AuditEntry.objects.order_by("pk")[audited:])
    if status in (200, 302) and not _leads_to_sign_in(response):
        if row in MUTATIONS:
            assert [e.outcome for e in entries] == ["success"], name
            assert world.state() != before or sent, name
            return status
        # What an executor said is remembered; reading changes nothing else.
        snapshots = WorkflowSnapshot._meta.label
        assert world.state() | {snapshots: []} == before | {snapshots: []}, name
    else:
        assert world.state() == before, name
    assert sent == [] and mail.outbox == [], name
    assert [e.outcome for e in entries] in ([], ["denied"], ["failure"]), name
    if row in MUTATIONS and status == 403 and name == "carol":
        # Who could see it tried to change it: that leaves a trace.
        assert [e.outcome for e in entries] == ["denied"]
    if status == 404 and "org" in ROUTES[row.route]:
        absent = _request(client, row, world, org="absent")
        assert (absent.status_code, _bare(absent)) == (404, _bare(response)), name
    return status


@contextlib.contextmanager
def _rolled_back() -> Iterator[None]:
    with transaction.atomic():
        yield
        transaction.set_rollback(True)


def _leads_to_sign_in(response: Any) -> bool:
    return bool(response.status_code == 302 and "/accounts/" in response["Location"])


def _bare(response: Any) -> str:
    """A page without what differs at each request."""
    return re.sub(r"[A-Za-z0-9]{64}", "", response.content.decode())


@pytest.mark.parametrize("row", CONSOLE, ids=str)
def test_other_methods_are_refused(world: World, row: Row) -> None:
    known = {r.method for r in CONSOLE if r.route == row.route}

    for name in (None, "mallory", "alice"):
        client = world.client(name)
        for method in set(METHODS) - known:
            response = client.generic(method, row.url(world))
            assert response.status_code == 405, (name, method)


@pytest.mark.parametrize("row", MUTATIONS, ids=str)
def test_change_needs_a_csrf_token(world: World, sent: list[Request], row: Row) -> None:
    client = world.client("alice", enforce_csrf_checks=True)
    before = world.state()

    response = _request(client, row, world)

    assert response.status_code == 403
    assert world.state() == before
    assert sent == []


@pytest.mark.parametrize("row", MUTATIONS, ids=str)
def test_change_that_cannot_be_audited_is_not_made(
    world: World, sent: list[Request], row: Row
) -> None:
    """Of an order that is the record, from which the entry is written in the end."""
    # Only who is no member yet can accept an invitation.
    name = "mallory" if row.route == "registry:invitation_accept" else "alice"
    client = world.client(name)
    before = world.state()

    with (
        mock.patch.object(AuditEntry.objects, "create", side_effect=DatabaseError),
        mock.patch.object(WorkflowCommand.objects, "create", side_effect=DatabaseError),
    ):
        response = _request(client, row, world)

    assert response.status_code == 500
    assert world.state() == before
    assert sent == []


@pytest.mark.parametrize(
    "row", [r for r in ACCOUNTS if r.expected[None] == 302], ids=str
)
def test_account_pages_take_nothing_from_strangers(world: World, row: Row) -> None:
    before = world.state()

    response = world.client(None).post(row.url(world), {"email": "a@example.com"})

    assert response.status_code == 302
    assert world.state() == before


# --- Sockets -----------------------------------------------------------------------

_ANY = r"^"
_EXECUTOR = r"^(?:.*/)?websocket/(?P<application_name>[^/\0]+)/(?P<secret>[^/\0]+)/?$"
_KEYLESS = r"^(?:.*/)?websocket/(?P<application_name>[^/\0]+)/?$"
_LIVE = r"^orgs/(?P<org>[^/\0]+)/apps/(?P<app>[^/\0]+)/live/$"


@dataclass(frozen=True)
class Handshake:
    # The pattern of the route; the path, in which the key stands for `{key}`.
    route: str
    path: str
    # Of `tests.world.make_keys`: whose session, or which key; else a text.
    key: str
    status: int
    origin: str | None = None

    def __str__(self) -> str:
        return f"{self.path} {self.key[:26]} {self.origin or ''}"


HANDSHAKES = (
    Handshake(_EXECUTOR, "/websocket/orders/{key}", "right", 101),
    Handshake(_EXECUTOR, "/websocket/orders/{key}/", "right", 101),
    Handshake(_EXECUTOR, "/any/prefix/websocket/orders/{key}", "right", 101),
    Handshake(_EXECUTOR, "/websocket/orders/{key}", "right, one application", 101),
    Handshake(_EXECUTOR, "/websocket/orders/{key}", "nonsense", 401),
    Handshake(_EXECUTOR, "/websocket/orders/{key}", "dbos_abcdefgh_" + "x" * 43, 401),
    Handshake(_EXECUTOR, "/websocket/orders/{key}", "x" * 5000, 401),
    Handshake(_EXECUTOR, "/websocket/orders/{key}", "revoked", 401),
    Handshake(_EXECUTOR, "/websocket/orders/{key}", "expired", 401),
    Handshake(_EXECUTOR, "/websocket/orders/{key}", "without websocket.connect", 403),
    Handshake(_EXECUTOR, "/websocket/orders/{key}", "of another application", 403),
    Handshake(_EXECUTOR, "/websocket/orders/{key}", "of another organization", 404),
    Handshake(_EXECUTOR, "/websocket/secret-app/{key}", "right", 404),
    Handshake(_EXECUTOR, "/websocket/orderz/{key}", "right", 404),
    Handshake(_KEYLESS, "/websocket/orders", "", 401),
    Handshake(_KEYLESS, "/websocket/orders/", "", 401),
    Handshake(_KEYLESS, "/any/prefix/websocket/orders/", "", 401),
    Handshake(_LIVE, "/orgs/acme/apps/orders/live/", "", 401),
    Handshake(_LIVE, "/orgs/acme/apps/orders/live/", "no session", 401),
    Handshake(_LIVE, "/orgs/acme/apps/orders/live/", "right", 401),
    Handshake(_LIVE, "/orgs/acme/apps/orders/live/", "mallory", 404),
    Handshake(_LIVE, "/orgs/other/apps/secret-app/live/", "admin", 404),
    Handshake(_LIVE, "/orgs/acme/apps/secret-app/live/", "admin", 404),
    Handshake(_LIVE, "/orgs/acme/apps/orders/live/", "zoe", 403),
    Handshake(_LIVE, "/orgs/acme/apps/orders/live/", "admin", 101),
    Handshake(_LIVE, "/orgs/acme/apps/orders/live/", "admin", 403, "https://a.example"),
    Handshake(_ANY, "/websocket/%00/{key}", "right", 404),
    Handshake(_ANY, "/websocket/orders/%00", "", 404),
    Handshake(_ANY, "/orgs/acme/apps/%00/live/", "admin", 404),
    Handshake(_ANY, "/", "", 404),
    Handshake(_ANY, "/orgs/acme/apps/", "", 404),
)


@pytest.fixture(scope="module")
def conductor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    running = Embedded(tmp_path_factory.mktemp("sockets"))
    try:
        yield running
    finally:
        running.stop()


def _there(conductor: Embedded, function: str) -> Any:
    """Call a function of `tests.world` on the running Conductor's database."""
    code = f"import json, tests.world as w; print(json.dumps(w.{function}()))"
    return json.loads(conductor.manage("shell", "-c", code).splitlines()[-1])


@pytest.fixture(scope="module")
def keys(conductor: Embedded) -> dict[str, str]:
    made: dict[str, str] = _there(conductor, "make_keys")
    return made


def test_every_socket_route_has_a_row() -> None:
    routes = {str(route.pattern) for route in websocket_urlpatterns}

    assert routes == {row.route for row in HANDSHAKES}


@pytest.mark.parametrize("row", HANDSHAKES, ids=str)
def test_socket_access(
    conductor: Embedded, keys: dict[str, str], row: Handshake
) -> None:
    secret = keys.get(row.key, row.key)
    home = conductor.urls[0]
    url = home.replace("http", "ws", 1) + row.path.format(key=secret)
    # A page's script names where the page came from; an executor names nothing.
    origin = row.origin or (home if row.route == _LIVE else None)

    def shake_hands() -> ClientConnection:
        return connect(
            url,
            proxy=None,
            origin=cast("Any", origin),
            additional_headers={"Cookie": f"conductor_session={secret}"},
        )

    if row.status == 101:
        with shake_hands() as socket:
            if row.route == _EXECUTOR:
                question = json.loads(socket.recv(timeout=10))
                assert question["type"] == "executor_info"
    else:
        with pytest.raises(InvalidStatus) as refused:
            shake_hands()
        response = refused.value.response
        problem = json.loads(response.body or b"")
        assert response.status_code == problem["status"] == row.status
        assert response.headers["Content-Type"] == "application/problem+json"
        assert "dbos_" not in problem["detail"]
    if row.key in keys:
        assert secret not in conductor.logs()


def test_open_socket_does_not_outlive_its_key(
    conductor: Embedded, keys: dict[str, str]
) -> None:
    home = conductor.urls[0].replace("http", "ws", 1)
    paths = {
        "to be revoked": "orders",
        "to be expired": "orders",
        "of an application to be deleted": "doomed",
    }
    with contextlib.ExitStack() as stack:
        opened = {
            name: stack.enter_context(
                connect(f"{home}/websocket/{application}/{keys[name]}", proxy=None)
            )
            for name, application in paths.items()
        }
        for number, socket in enumerate(opened.values()):
            question = json.loads(socket.recv(timeout=10))
            reply = {**question, "executor_id": f"x{number}", "language": "python"}
            socket.send(json.dumps(reply))
        wait_until(
            "all are registered",
            lambda: len(conductor.healthy("orders") + conductor.healthy("doomed")) == 3,
            secs=20,
        )

        used = _there(conductor, "take_keys_away")

        for name, socket in opened.items():
            with pytest.raises(ConnectionClosed):
                while True:  # it may be asked something before
                    socket.recv(timeout=20)
            assert socket.close_code == 1008, name
    assert list(used.values()) == [True] * 3
