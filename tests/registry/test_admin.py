"""The staff screens: bounded lists, no secrets, and changes that are audited."""

from __future__ import annotations

from typing import Any

import pytest
from django.apps import apps
from django.contrib import admin
from django.contrib.auth.models import User
from django.urls import reverse
from django.utils import timezone

from apps import errors
from apps.executors.models import Executor, Recovery
from apps.registry import services
from apps.registry.auth import member_actor
from apps.registry.models import (
    ApiKey,
    AuditEntry,
    DomainClaim,
    Membership,
    Organization,
    Role,
)
from apps.workflows.models import WorkflowSnapshot
from tests.world import TOTP_SECRET, World, make_world

MANY = 20
MODELS = sorted(model._meta.label for model in admin.site._registry)


@pytest.fixture
def world(db: None) -> World:
    world = make_world()
    application, now = world.application, timezone.now()
    for n in range(MANY):
        user = User.objects.create_user(f"u{n}", f"u{n}@example.com")
        Membership.objects.create(
            user=user, organization=world.acme, role=Role.objects.all()[n % 4]
        )
        ApiKey.objects.create(organization=world.acme, name=f"m{n}", prefix=f"m{n}")
        Executor.objects.create(application=application, executor_id=f"m{n}")
        Recovery.objects.create(
            application=application, executor_id=f"m{n}", dead_at=now, next_try_at=now
        )
        WorkflowSnapshot.objects.create(
            application=application,
            workflow_id=f"m{n}",
            created_at=now,
            updated_at=now,
            attributes="the application's own",
        )
    return world


def _url(label: str, page: str, *args: Any) -> str:
    return reverse(f"admin:{label.replace('.', '_').lower()}_{page}", args=args)


@pytest.mark.parametrize("label", MODELS)
def test_list_and_detail_show_what_is_there(
    world: World, label: str, django_assert_max_num_queries: Any
) -> None:
    client = world.client("sam")
    rows = apps.get_model(label)._default_manager.order_by("-pk")

    # Session, user, two counts, and the rows with what they name.
    with django_assert_max_num_queries(6):
        listing = client.get(_url(label, "changelist"))
    with django_assert_max_num_queries(10):
        detail = client.get(_url(label, "change", rows[0].pk))
    search = client.get(_url(label, "changelist"), {"q": "acme"})

    assert (listing.status_code, detail.status_code, search.status_code) == (200,) * 3
    assert listing.context["cl"].result_count == min(rows.count(), 10_000)
    hashes = {
        *ApiKey.objects.values_list("secret_hash", flat=True),
        *world.acme.invitations.values_list("secret_hash", flat=True),
        *User.objects.values_list("password", flat=True),
        TOTP_SECRET,
        "the application&#x27;s own",
    } - {""}
    for page in (listing, detail):
        assert not [secret for secret in hashes if secret in page.content.decode()]


@pytest.mark.parametrize("label", MODELS)
def test_search_reads_an_index_of_one_column(label: str) -> None:
    site = admin.site._registry[apps.get_model(label)]

    assert len(site.search_fields) <= 1
    assert all(f.endswith("__startswith") for f in site.search_fields)
    assert site.show_full_result_count is False
    assert site.list_max_show_all <= 50


def test_long_list_is_not_counted_to_its_end(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apps.registry.admin.COUNT_LIMIT", 7)

    page = world.client("sam").get(_url("executors.Executor", "changelist"))

    assert page.context["cl"].result_count == 7


def _act(world: World, label: str, action: str, *pks: int) -> int:
    response = world.client("sam").post(
        _url(label, "changelist"), {"action": action, "_selected_action": pks}
    )
    return int(response.status_code)


def test_staff_revoke_a_key_in_their_own_name(world: World) -> None:
    assert _act(world, "registry.ApiKey", "revoke", world.key.pk) == 302

    world.key.refresh_from_db()
    entry = AuditEntry.objects.latest("pk")
    assert world.key.revoked_at is not None
    assert (entry.operation, entry.subject_type) == ("token.revoke", "staff")
    assert entry.subject_display == "sam@example.com"


def test_staff_decide_on_a_claim_in_their_own_name(world: World) -> None:
    claim = world.acme.domain_claims.get()

    _act(world, "registry.DomainClaim", "approve", claim.pk)

    claim.refresh_from_db()
    assert (claim.status, claim.decided_by) == ("approved", "sam@example.com")
    entry = AuditEntry.objects.latest("pk")
    assert (entry.operation, entry.subject_type) == ("domain_claim.decide", "staff")
    assert (entry.target_id, entry.details) == ("acme.example", {"status": "approved"})

    _act(world, "registry.DomainClaim", "deny", claim.pk)

    claim.refresh_from_db()
    assert claim.status == "denied"


def test_claim_on_a_domain_that_another_has_cannot_be_approved(world: World) -> None:
    claim = world.acme.domain_claims.get()
    DomainClaim.objects.create(
        organization=Organization.objects.get(name="other"),
        domain=claim.domain,
        status="approved",
    )

    _act(world, "registry.DomainClaim", "approve", claim.pk)

    claim.refresh_from_db()
    assert claim.status == "pending"
    assert AuditEntry.objects.latest("pk").outcome == "failure"


def test_nobody_but_staff_decides_on_a_claim(world: World) -> None:
    claim = world.acme.domain_claims.get()
    alice = member_actor(world.membership("alice"), world.users["alice"])

    with pytest.raises(errors.Forbidden):
        services.decide_domain_claim(actor=alice, claim=claim, is_approved=True)


def test_deactivated_person_is_out_at_once(world: World) -> None:
    browser = world.client("bob")
    assert browser.get("/orgs/acme/apps/").status_code == 200

    _act(world, "auth.User", "deactivate", world.users["bob"].pk)

    assert browser.get("/orgs/acme/apps/").status_code == 302
    entry = AuditEntry.objects.latest("pk")
    assert (entry.operation, entry.target_id) == ("user.deactivate", "bob@example.com")

    _act(world, "auth.User", "reactivate", world.users["bob"].pk)

    assert browser.get("/orgs/acme/apps/").status_code == 200


def test_staff_cannot_lock_themselves_out(world: World) -> None:
    _act(world, "auth.User", "deactivate", world.users["sam"].pk)

    assert User.objects.get(username="sam").is_active


def test_staff_without_rights_see_nothing(world: World) -> None:
    User.objects.filter(username="bob").update(is_staff=True)

    response = world.client("bob").get(_url("registry.ApiKey", "changelist"))

    assert response.status_code == 403


def test_admin_signs_in_where_everybody_does(world: World) -> None:
    response = world.client(None).post(
        "/admin/login/", {"username": "sam", "password": "sam pass word"}
    )

    assert response.status_code == 302
    assert response["Location"].startswith("/accounts/login/")


@pytest.mark.parametrize("label", MODELS)
def test_nothing_is_added_edited_or_deleted_by_hand(world: World, label: str) -> None:
    client, before = world.client("sam"), world.state()
    pk = apps.get_model(label)._default_manager.order_by("pk")[0].pk

    for page, args in (("add", ()), ("change", (pk,)), ("delete", (pk,))):
        response = client.post(_url(label, page, *args), {"name": "x", "post": "yes"})
        assert response.status_code == 403, page
    client.post(
        _url(label, "changelist"),
        {"action": "delete_selected", "_selected_action": pk, "post": "yes"},
    )

    assert world.state() == before
