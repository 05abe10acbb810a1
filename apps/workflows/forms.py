"""HTML input of the workflow pages."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any

from django import forms
from django.core.exceptions import ValidationError

from apps import errors
from apps.registry.forms import StyledForm
from apps.workflows.live.order import Position
from apps.workflows.models import STATUSES
from apps.workflows.selectors import Filters
from apps.workflows.services.commands import ID_CHARS_LIMIT

EARLIEST = datetime(1970, 1, 2, tzinfo=UTC)
LATEST = datetime(9999, 1, 1, tzinfo=UTC)
# What one page of the list can tick.
BULK_LIMIT = 100


class StatusField(forms.MultipleChoiceField):
    """Any number of statuses; the select's "Any" sends an empty one."""

    def to_python(self, value: Any) -> list[str]:
        return list(dict.fromkeys(one for one in super().to_python(value) if one))


class MomentField(forms.DateTimeField):
    """A moment in UTC that every database and SDK can hold."""

    def clean(self, value: Any) -> datetime | None:
        try:
            moment: datetime | None = super().clean(value)
            moment = moment and moment.astimezone(UTC)
        except (OverflowError, ValueError):
            moment = EARLIEST.min.replace(tzinfo=UTC)
        if moment is not None and not EARLIEST <= moment <= LATEST:
            raise ValidationError("Give a time between 1970 and 9999.")
        return moment


class CursorField(forms.CharField):
    """Where the page begins."""

    def clean(self, value: Any) -> Position | None:
        text = super().clean(value)
        try:
            return Position.parse(text) if text else None
        except errors.InvalidInput as exc:
            raise ValidationError(exc.message) from exc


class FilterForm(forms.Form):
    """The list's filters, all optional, all in the query string. Times are UTC."""

    FILTERS = ("status", "name", "id_prefix", "version", "created_from", "created_to")

    status = StatusField(
        choices=[(status, status) for status in STATUSES], required=False
    )
    name = forms.CharField(max_length=255, required=False, strip=False)
    id_prefix = forms.CharField(
        label="Id begins with", max_length=1000, required=False, strip=False
    )
    version = forms.CharField(max_length=255, required=False, strip=False)
    created_from = MomentField(required=False)
    created_to = MomentField(required=False)
    cursor = CursorField(
        label="Page", max_length=ID_CHARS_LIMIT + 20, required=False, strip=False
    )

    def clean(self) -> dict[str, Any]:
        data = self.cleaned_data
        start, end = data.get("created_from"), data.get("created_to")
        if start and end and start > end:
            self.add_error("created_to", "Ends before it begins.")
        return data

    @property
    def is_filtered(self) -> bool:
        return any(self.cleaned_data.get(name) for name in self.FILTERS)

    def filters(self) -> Filters:
        """Only of a valid form: what is not valid is not silently left out."""
        data = self.cleaned_data
        return Filters(
            status=tuple(data["status"]),
            name=data["name"],
            id_prefix=data["id_prefix"],
            version=data["version"],
            created_from=data["created_from"],
            created_to=data["created_to"],
        )


class CancelForm(StyledForm):
    children = forms.BooleanField(label="Also its child workflows", required=False)


class ResumeForm(StyledForm):
    pass


class ForkForm(StyledForm):
    start_step = forms.IntegerField(
        label="From step",
        min_value=0,
        max_value=1_000_000,
        required=False,
        help_text="Steps before it are copied. Empty: from the first step.",
    )
    application_version = forms.CharField(
        label="Version",
        max_length=255,
        required=False,
        help_text="Empty: the same version as the original.",
    )
    # Made with the form, so that sending it twice makes one fork.
    new_workflow_id = forms.UUIDField(
        widget=forms.HiddenInput, required=False, initial=uuid.uuid4
    )


class DeleteForm(StyledForm):
    children = forms.BooleanField(label="Also its child workflows", required=False)


class BulkForm(StyledForm):
    """Ticked workflows. `confirmed` is set by the page that asks once more."""

    children = forms.BooleanField(label="Also their child workflows", required=False)
    confirmed = forms.BooleanField(widget=forms.HiddenInput, required=False)

    def __init__(self, data: Any, *, ids: list[str]) -> None:
        super().__init__(data)
        self.ids = list(dict.fromkeys(ids))

    @property
    def problem(self) -> str:
        return " ".join(str(error) for error in self.non_field_errors())

    def clean(self) -> dict[str, Any]:
        if not self.ids:
            raise ValidationError("Tick at least one workflow.")
        if len(self.ids) > BULK_LIMIT:
            raise ValidationError(f"Tick at most {BULK_LIMIT} workflows at a time.")
        if any(
            not one or len(one) > ID_CHARS_LIMIT or "\x00" in one for one in self.ids
        ):
            raise ValidationError("That is not a workflow's id.")
        return self.cleaned_data
