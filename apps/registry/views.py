"""The registry's pages: organizations, applications, API keys, members, audit."""

from __future__ import annotations

import logging
from typing import Any

import requests
from allauth.account.adapter import get_adapter
from allauth.idp.oidc.forms import ConfirmCodeForm
from allauth.socialaccount.providers.openid_connect.views import login as openid_login
from django.conf import settings
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import (
    require_http_methods,
    require_POST,
    require_safe,
)

from apps import errors
from apps.registry import auth, forms, issuers, provider, selectors, services
from apps.registry.adapter import INVITATION_SESSION_KEY
from apps.registry.auth import Actor
from apps.registry.models import Application, Permission
from apps.registry.selectors import AuditFilter

logger = logging.getLogger(__name__)

AUDIT_PAGE = 50
DEVICES_SHOWN = 200
_form_page = require_http_methods(["GET", "HEAD", "POST"])


def _page(
    request: HttpRequest,
    template: str,
    actor: Actor,
    context: dict[str, Any],
    *,
    status: int = 200,
) -> HttpResponse:
    base = {"organization": actor.organization, "actor": actor}
    return render(request, template, base | context, status=status)


def _explain(form: forms.StyledForm, error: errors.ConductorError) -> None:
    """Put a service's refusal where the person looks: at the field, or on top."""
    field = str(error.details.get("field", ""))
    form.add_error(field if field in form.fields else None, error.message)


# --- Organizations ---------------------------------------------------------------


@require_safe
def organization_home(request: HttpRequest) -> HttpResponse:
    """The way in: to the first organization, or to founding one."""
    user = auth.signed_in_user(request)
    first = selectors.organizations_of(user).first()
    if first is None:
        return redirect("registry:organization_create")
    return redirect("executors:application_list", org=first.name)


@_form_page
def organization_create(request: HttpRequest) -> HttpResponse:
    user = auth.signed_in_user(request)
    if settings.CONDUCTOR_AUTH == "none":
        raise errors.NotFound("There is one organization.")
    if settings.CONDUCTOR_SIGNUP != "open" and not user.memberships.exists():
        # Another provider vouches for people who may not sign up here.
        raise errors.Forbidden(
            "People join by invitation here. Ask an admin of an organization for one."
        )
    form = forms.OrganizationForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        try:
            organization = services.create_organization(
                user=user,
                name=form.cleaned_data["name"],
                traces=auth.traces(request),
            )
        except (errors.InvalidInput, errors.Conflict) as exc:
            _explain(form, exc)
        else:
            return redirect("executors:application_list", org=organization.name)
    return render(
        request,
        "registry/organization_create.html",
        {"form": form},
        status=422 if form.is_bound else 200,
    )


# --- Applications ----------------------------------------------------------------


@_form_page
def application_create(request: HttpRequest, org: str) -> HttpResponse:
    actor = auth.actor_for(request, org)
    form = forms.ApplicationForm(
        request.POST or None, initial={"name": request.GET.get("name", "")}
    )
    if request.method == "POST" and form.is_valid():
        try:
            application = services.create_application(actor=actor, **form.cleaned_data)
        except (errors.InvalidInput, errors.Conflict) as exc:
            _explain(form, exc)
        else:
            return redirect(
                "executors:application_connect", org=org, app=application.name
            )
    else:
        actor.require(Permission.APPLICATION_WRITE)
    return _page(
        request,
        "registry/application_create.html",
        actor,
        {"form": form, "active": "applications"},
        status=422 if form.is_bound else 200,
    )


def _open(request: HttpRequest, org: str, app: str) -> tuple[Actor, Application]:
    """Fetch what the actor sees; whether they may change it, the service decides, which
    also records a refusal."""
    actor = auth.actor_for(request, org)
    return actor, selectors.get_application_for(
        actor=actor, name=app, permission=Permission.APPLICATION_READ
    )


@_form_page
def application_settings(request: HttpRequest, org: str, app: str) -> HttpResponse:
    actor, application = _open(request, org, app)
    form = forms.ApplicationSettingsForm(
        request.POST or None,
        initial={
            "executor_timeout_secs": application.executor_timeout_secs,
            "private_mode": application.private_mode,
        },
    )
    if request.method == "POST" and form.is_valid():
        services.update_application(
            actor=actor, application=application, **form.cleaned_data
        )
        messages.success(request, "Settings saved.")
        return redirect("registry:application_settings", org=org, app=app)
    actor.require(Permission.APPLICATION_WRITE, application)
    return _page(
        request,
        "registry/application_settings.html",
        actor,
        {"form": form, "application": application, "active": "settings"},
        status=422 if form.is_bound else 200,
    )


@require_POST
def application_delete(request: HttpRequest, org: str, app: str) -> HttpResponse:
    """Needs the name typed: everything Conductor knows of it goes."""
    actor, application = _open(request, org, app)
    if request.POST.get("confirm", "") != application.name:
        actor.require(Permission.APPLICATION_WRITE, application)
        messages.error(request, "Nothing was deleted: the name did not match.")
        return redirect("registry:application_settings", org=org, app=app)
    services.delete_application(actor=actor, application=application)
    messages.success(request, f"Application {app} was deleted.")
    return redirect("executors:application_list", org=org)


# --- API keys --------------------------------------------------------------------


@require_safe
def key_list(request: HttpRequest, org: str) -> HttpResponse:
    actor = auth.actor_for(request, org)
    keys = selectors.api_keys_of(actor)
    return _page(
        request, "registry/key_list.html", actor, {"keys": keys, "active": "keys"}
    )


@_form_page
@never_cache
def key_create(request: HttpRequest, org: str) -> HttpResponse:
    """A form; then the new secret, once."""
    actor = auth.actor_for(request, org)
    form = forms.ApiKeyForm(
        request.POST or None, actor=actor, for_name=request.GET.get("application", "")
    )
    if request.method == "POST" and form.is_valid():
        try:
            key, secret = services.create_api_key(
                actor=actor, **form.service_arguments()
            )
        except (errors.InvalidInput, errors.Conflict) as exc:
            _explain(form, exc)
        else:
            scope = form.cleaned_data["applications"]
            context = {
                "key": key,
                "secret": secret,
                "active": "keys",
                "connect": scope[0] if len(scope) == 1 else None,
            }
            return _page(request, "registry/key_created.html", actor, context)
    else:
        actor.require(Permission.TOKEN_WRITE)
    return _page(
        request,
        "registry/key_create.html",
        actor,
        {"form": form, "active": "keys"},
        status=422 if form.is_bound else 200,
    )


@require_POST
def key_revoke(request: HttpRequest, org: str, pk: int) -> HttpResponse:
    actor = auth.actor_for(request, org)
    key = selectors.get_api_key_for(
        actor=actor, pk=pk, permission=Permission.TOKEN_READ
    )
    services.revoke_api_key(actor=actor, key=key)
    messages.success(
        request, f"Key {key.name} was revoked. Its open connections close in seconds."
    )
    return redirect("registry:key_list", org=org)


# --- Members ---------------------------------------------------------------------


def _members_page(
    request: HttpRequest, actor: Actor, *, link: str = "", **refused: forms.StyledForm
) -> HttpResponse:
    """`refused` is the form that was sent and has errors, if one was."""
    context = {
        "members": selectors.memberships_of(actor),
        "invitations": selectors.invitations_of(actor),
        "roles": selectors.roles_of(actor.organization),
        "domain_claims": selectors.domain_claims_of(actor),
        "invitation_form": forms.InvitationForm(actor=actor),
        "role_form": forms.RoleForm(actor=actor),
        "domain_form": forms.DomainClaimForm(),
        "link": link,
        "active": "members",
        **refused,
    }
    status = 422 if refused else 200
    return _page(request, "registry/member_list.html", actor, context, status=status)


@require_safe
def member_list(request: HttpRequest, org: str) -> HttpResponse:
    return _members_page(request, auth.actor_for(request, org))


@require_POST
@never_cache
def invitation_create(request: HttpRequest, org: str) -> HttpResponse:
    """Answers with the link, once."""
    actor = auth.actor_for(request, org)
    form = forms.InvitationForm(request.POST, actor=actor)
    if not form.is_valid():
        actor.require(Permission.ORGANIZATION_WRITE)
        return _members_page(request, actor, invitation_form=form)
    _, secret = services.invite_member(actor=actor, **form.cleaned_data)
    path = reverse("registry:invitation_accept", args=[secret])
    return _members_page(request, actor, link=request.build_absolute_uri(path))


@require_POST
def invitation_revoke(request: HttpRequest, org: str, pk: int) -> HttpResponse:
    actor = auth.actor_for(request, org)
    invitation = selectors.get_invitation_for(
        actor=actor, pk=pk, permission=Permission.ORGANIZATION_READ
    )
    services.revoke_invitation(actor=actor, invitation=invitation)
    messages.success(request, "The invitation is no longer valid.")
    return redirect("registry:member_list", org=org)


@_form_page
@never_cache
def invitation_accept(request: HttpRequest, secret: str) -> HttpResponse:
    """A signed-in person confirms; a stranger signs up and joins by it, or signs in
    and comes back here."""
    if request.method == "POST":
        user = auth.signed_in_user(request)
        membership = services.accept_invitation(
            user=user, secret=secret, traces=auth.traces(request)
        )
        messages.success(request, f"Welcome to {membership.organization.name}.")
        return redirect("executors:application_list", org=membership.organization.name)
    invitation = selectors.find_open_invitation(secret, timezone.now())
    if invitation is None:
        raise errors.NotFound(
            "This invitation is not valid any more. Ask for a new link."
        )
    context: dict[str, Any] = {"invitation": invitation}
    if request.user.is_authenticated:
        user = auth.signed_in_user(request)
        members = invitation.organization.memberships
        context["is_member"] = members.filter(user=user).exists()
        context["is_invited"] = services.is_invited(invitation, user)
    else:
        request.session[INVITATION_SESSION_KEY] = secret
        context["may_sign_up"] = get_adapter().is_open_for_signup(request)
    return render(request, "registry/invitation_accept.html", context)


@require_POST
def member_role(request: HttpRequest, org: str, username: str) -> HttpResponse:
    actor = auth.actor_for(request, org)
    form = forms.MemberRoleForm(request.POST, actor=actor)
    if not form.is_valid():
        actor.require(Permission.ORGANIZATION_WRITE)
        raise errors.InvalidInput("Choose one of the organization's roles.")
    services.change_role(
        actor=actor, username=username, role_name=form.cleaned_data["role"].name
    )
    messages.success(request, "The role was changed.")
    return redirect("registry:member_list", org=org)


@require_POST
def member_remove(request: HttpRequest, org: str, username: str) -> HttpResponse:
    actor = auth.actor_for(request, org)
    services.remove_member(actor=actor, username=username)
    messages.success(request, "The member was removed.")
    return redirect("registry:member_list", org=org)


@require_POST
def role_create(request: HttpRequest, org: str) -> HttpResponse:
    actor = auth.actor_for(request, org)
    form = forms.RoleForm(request.POST, actor=actor)
    if form.is_valid():
        try:
            role = services.create_role(actor=actor, **form.cleaned_data)
        except errors.Conflict as exc:
            _explain(form, exc)
        else:
            messages.success(request, f"The role {role.name} can be given now.")
            return redirect("registry:member_list", org=org)
    else:
        actor.require(Permission.ORGANIZATION_WRITE)
    return _members_page(request, actor, role_form=form)


@require_POST
def role_delete(request: HttpRequest, org: str, role: str) -> HttpResponse:
    services.delete_role(actor=auth.actor_for(request, org), name=role)
    messages.success(request, f"The role {role} is gone.")
    return redirect("registry:member_list", org=org)


@require_POST
def domain_claim_request(request: HttpRequest, org: str) -> HttpResponse:
    actor = auth.actor_for(request, org)
    form = forms.DomainClaimForm(request.POST)
    if form.is_valid():
        try:
            claim = services.request_domain_claim(actor=actor, **form.cleaned_data)
        except (errors.InvalidInput, errors.Conflict) as exc:
            _explain(form, exc)
        else:
            state = claim.get_status_display().lower()
            messages.success(request, f"The claim on {claim.domain} is {state}.")
            return redirect("registry:member_list", org=org)
    else:
        actor.require(Permission.ORGANIZATION_WRITE)
    return _members_page(request, actor, domain_form=form)


@require_POST
def domain_claim_release(request: HttpRequest, org: str, domain: str) -> HttpResponse:
    services.release_domain_claim(actor=auth.actor_for(request, org), domain=domain)
    messages.success(request, f"{domain} is no longer claimed.")
    return redirect("registry:member_list", org=org)


# --- One's own account -----------------------------------------------------------


@_form_page
@never_cache
def device_approve(request: HttpRequest) -> HttpResponse:
    """A person types the code that a program shows, or follows its link, and says
    whether it may sign in as them. Attempts are limited for each person."""
    user = auth.signed_in_user(request)
    code = (request.POST if request.method == "POST" else request.GET).get("code")
    form = ConfirmCodeForm(None if code is None else {"code": provider.as_shown(code)})
    if not form.is_valid():
        status = 422 if form.is_bound else 200
        return render(
            request, "registry/device_code.html", {"form": form}, status=status
        )
    context: dict[str, Any] = {
        "client": form.client,
        "user_code": form.cleaned_data["code"],
        "origin": provider.origin_of(form.cleaned_data["code"]),
        "own_ip": auth.traces(request)["source_ip"],
    }
    decision = request.POST.get("decision")
    if decision not in ("approve", "deny"):
        return render(request, "registry/device_approve.html", context)
    services.decide_on_device(
        actors=auth.member_actors(user, request),
        user=user,
        client=form.client,
        device_code=form.device_code,
        source_ip=context["origin"].get("source_ip", ""),
        is_approved=decision == "approve",
    )
    return render(
        request,
        "registry/device_decided.html",
        context | {"is_approved": decision == "approve"},
    )


@require_safe
def device_list(request: HttpRequest) -> HttpResponse:
    user = auth.signed_in_user(request)
    devices = selectors.devices_of(user)[:DEVICES_SHOWN]
    return render(request, "registry/device_list.html", {"devices": devices})


@require_POST
def device_sign_out(request: HttpRequest, pk: int) -> HttpResponse:
    user = auth.signed_in_user(request)
    device = selectors.get_device_for(user=user, pk=pk)
    services.sign_out_device(actors=auth.member_actors(user, request), device=device)
    messages.success(request, f"{device.client.name} is signed out.")
    return redirect("registry:device_list")


def leave_for_provider(request: HttpRequest, provider_id: str) -> HttpResponse:
    """allauth's way to another OpenID provider, as a page that leads there: the Content
    Security Policy lets no form of ours end elsewhere."""
    try:
        response: HttpResponse = openid_login(request, provider_id)
    except requests.RequestException as exc:
        logger.warning("an OpenID provider is away", extra={"error": str(exc)})
        name = issuers.name_of(provider_id)
        messages.error(request, f"{name} does not answer. Try again in a minute.")
        return redirect("account_login")
    if response.status_code != 302 or response["Location"].startswith("/"):
        return response
    return render(request, "registry/leave.html", {"url": response["Location"]})


# --- Audit -----------------------------------------------------------------------


@require_safe
def audit_list(request: HttpRequest, org: str) -> HttpResponse:
    actor = auth.actor_for(request, org)
    form = forms.AuditFilterForm(request.GET)
    chosen = form.chosen() if form.is_valid() else AuditFilter()
    entries = selectors.audit_entries_of(actor, chosen)
    if place := form.cleaned_data.get("cursor"):
        entries = selectors.audit_entries_before(entries, *place)
    page = list(entries[: AUDIT_PAGE + 1]) if form.is_valid() else []
    next_cursor = ""
    if len(page) > AUDIT_PAGE:
        next_cursor = forms.AuditCursorField.write(page[AUDIT_PAGE - 1])
    return _page(
        request,
        "registry/audit_list.html",
        actor,
        {
            "form": form,
            "entries": page[:AUDIT_PAGE],
            "chain": selectors.audit_chain_of(actor.organization),
            "cursor": request.GET.get("cursor", ""),
            "next_cursor": next_cursor,
            "active": "audit",
        },
        status=200 if form.is_valid() else 422,
    )
