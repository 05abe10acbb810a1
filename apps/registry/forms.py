"""Forms of the registry: HTML input into values; the services do the rest."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from django import forms
from django.utils import timezone

from apps.registry.auth import Actor
from apps.registry.models import (
    Application,
    AuditEntry,
    Permission,
    Role,
    application_name,
    organization_name,
    role_name,
)
from apps.registry.operations import Operation
from apps.registry.selectors import AuditFilter, applications_of, roles_of

PERMISSION_WORDS = {
    Permission.WEBSOCKET_CONNECT: "Connect executors",
    Permission.APPLICATION_READ: "Read applications and workflows",
    Permission.APPLICATION_WRITE: "Change applications, command workflows",
    Permission.WORKFLOW_IMPORT: "Import workflows: runs code in Python executors",
    Permission.METRIC_READ: "Read metrics",
    Permission.ORGANIZATION_READ: "Read the organization and its audit log",
    Permission.ORGANIZATION_WRITE: "Change the organization and its members",
    Permission.TOKEN_READ: "See the list of API keys",
    Permission.TOKEN_WRITE: "Make and revoke API keys",
}


def permission_choices(
    actor: Actor, *without: Permission
) -> list[tuple[Permission, str]]:
    """What an actor may hand on, in words."""
    return [
        (permission, words)
        for permission, words in PERMISSION_WORDS.items()
        if permission in actor.permissions and permission not in without
    ]


class StyledForm(forms.Form):
    """Adds the UI kit's classes to every widget.

    Must not look at the errors: reading them validates the form, and the subclasses
    have yet to say what may be chosen. Django marks the invalid with `aria-invalid`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.label_suffix = ""
        for field in self.fields.values():
            widget = field.widget
            if isinstance(widget, forms.CheckboxInput | forms.CheckboxSelectMultiple):
                widget.attrs.setdefault("class", "form-check-input")
            elif isinstance(widget, forms.Select):
                widget.attrs.setdefault("class", "form-select")
            else:
                widget.attrs.setdefault("class", "form-control")


class OrganizationForm(StyledForm):
    name = forms.CharField(
        max_length=30,
        validators=[organization_name],
        help_text="3 to 30 lowercase letters, digits and underscores.",
    )


class ApplicationForm(StyledForm):
    name = forms.CharField(
        max_length=256,
        validators=[application_name],
        help_text="Exactly the name in your application's DBOS configuration.",
    )
    private_mode = forms.BooleanField(
        required=False,
        label="Private mode",
        help_text="Keep nothing about this application's workflows in Conductor.",
    )


class ApplicationSettingsForm(StyledForm):
    executor_timeout_secs = forms.IntegerField(
        min_value=1,
        max_value=86_400,
        label="Executor timeout, in seconds",
        help_text="How long a disconnected executor may take to come back before "
        "another one takes its workflows over.",
    )
    private_mode = forms.BooleanField(
        required=False,
        label="Private mode",
        help_text="Keep nothing about this application's workflows in Conductor.",
    )


class ApiKeyForm(StyledForm):
    LIFETIMES = (("", "Never"), ("30", "30 days"), ("90", "90 days"), ("365", "1 year"))

    name = forms.CharField(max_length=100)
    permissions = forms.MultipleChoiceField(
        widget=forms.CheckboxSelectMultiple, initial=[Permission.WEBSOCKET_CONNECT]
    )
    applications = forms.ModelMultipleChoiceField(
        queryset=Application.objects.none(),
        # By name: a number may be too large for the database.
        to_field_name="name",
        required=False,
        widget=forms.CheckboxSelectMultiple,
        help_text="None ticked: every application, also later ones.",
    )
    expires = forms.ChoiceField(choices=LIFETIMES, required=False, label="Expires in")

    def __init__(
        self, *args: Any, actor: Actor, for_name: str = "", **kwargs: Any
    ) -> None:
        """`for_name`: the application that the form is opened for, ticked then."""
        super().__init__(*args, **kwargs)
        self.fields["permissions"].choices = permission_choices(  # type: ignore[attr-defined]
            actor, Permission.TOKEN_WRITE
        )
        applications = applications_of(actor)
        self.fields["applications"].queryset = applications  # type: ignore[attr-defined]
        if for_name:
            self.initial["applications"] = applications.filter(name=for_name)
            self.initial["name"] = for_name[:100]

    def service_arguments(self) -> dict[str, Any]:
        """The cleaned values as `services.create_api_key` takes them."""
        data = self.cleaned_data
        days = data["expires"]
        return {
            "name": data["name"],
            "permissions": data["permissions"],
            "application_names": [one.name for one in data["applications"]] or None,
            "expires_at": timezone.now() + timedelta(days=int(days)) if days else None,
        }


class InvitationForm(StyledForm):
    email = forms.EmailField(
        required=False,
        label="E-mail (optional)",
        help_text="With an address, only its owner can accept.",
    )
    role = forms.ModelChoiceField(queryset=Role.objects.none(), empty_label=None)

    def __init__(self, *args: Any, actor: Actor, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["role"].queryset = roles_of(actor.organization)  # type: ignore[attr-defined]


class RoleForm(StyledForm):
    name = forms.CharField(
        max_length=30,
        validators=[role_name],
        help_text="3 to 30 letters, digits and underscores.",
    )
    permissions = forms.MultipleChoiceField(
        widget=forms.CheckboxSelectMultiple, required=False
    )

    def __init__(self, *args: Any, actor: Actor, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["permissions"].choices = permission_choices(actor)  # type: ignore[attr-defined]


class DomainClaimForm(StyledForm):
    domain = forms.CharField(
        max_length=253,
        help_text="Exactly this domain; claim subdomains separately. Yours at once if "
        "you have a verified address there, else after approval by staff.",
    )


class MemberRoleForm(StyledForm):
    role = forms.ModelChoiceField(queryset=Role.objects.none(), empty_label=None)

    def __init__(self, *args: Any, actor: Actor, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["role"].queryset = roles_of(actor.organization)  # type: ignore[attr-defined]


class AuditCursorField(forms.RegexField):
    """A place in the log: when its entry was written, in microseconds since the epoch,
    and its number."""

    def __init__(self, **options: Any) -> None:
        super().__init__(regex=r"\A\d{1,17}-\d{1,18}\Z", **options)

    @staticmethod
    def write(entry: AuditEntry) -> str:
        since = entry.emitted_at - datetime(1970, 1, 1, tzinfo=UTC)
        return f"{since // timedelta(microseconds=1)}-{entry.sequence}"

    def clean(self, value: Any) -> Any:
        text = super().clean(value)
        if not text:
            return None
        micros, _, sequence = text.partition("-")
        since = timedelta(microseconds=int(micros))
        return datetime(1970, 1, 1, tzinfo=UTC) + since, int(sequence)


class AuditFilterForm(StyledForm):
    """The audit log's filters, all optional, all in the query string. Times are UTC."""

    operation = forms.ChoiceField(
        choices=[("", "Any"), *((one.value, one.value) for one in Operation)],
        required=False,
    )
    subject = forms.CharField(label="By", max_length=254, required=False)
    target = forms.CharField(max_length=512, required=False, strip=False)
    start = forms.DateTimeField(label="From (UTC)", required=False)
    end = forms.DateTimeField(label="Before (UTC)", required=False)
    cursor = AuditCursorField(label="Page", required=False)

    @property
    def is_filtered(self) -> bool:
        names = ("operation", "subject", "target", "start", "end")
        return any(self[name].value() for name in names)

    def chosen(self) -> AuditFilter:
        """Only of a valid form."""
        data = self.cleaned_data
        return AuditFilter(
            **{
                name: data[name] or None
                for name in ("operation", "subject", "target", "start", "end")
            }
        )
