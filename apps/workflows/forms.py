"""HTML input of the workflow pages."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from django import forms
from django.core.exceptions import ValidationError

from apps.workflows.selectors import STATUSES, Filters


class MomentField(forms.DateTimeField):
    """A time in UTC. One at the end of the calendar has none in every zone."""

    def to_python(self, value: Any) -> datetime | None:
        try:
            moment = super().to_python(value)
            return moment.astimezone(UTC) if moment else None
        except OverflowError as exc:
            raise ValidationError("Enter a valid date/time.") from exc


class FilterForm(forms.Form):
    """The list's filters, all optional, all in the query string. Times are UTC."""

    status = forms.MultipleChoiceField(
        choices=[(status, status) for status in STATUSES], required=False
    )
    name = forms.CharField(max_length=255, required=False)
    id_prefix = forms.CharField(max_length=1000, required=False, strip=False)
    version = forms.CharField(max_length=255, required=False)
    created_from = MomentField(required=False)
    created_to = MomentField(required=False)

    def filters(self) -> Filters:
        """The valid ones; what is not valid is shown beside its field."""
        self.is_valid()
        data = self.cleaned_data
        return Filters(
            status=tuple(data.get("status") or ()),
            name=data.get("name") or "",
            id_prefix=data.get("id_prefix") or "",
            version=data.get("version") or "",
            created_from=data.get("created_from"),
            created_to=data.get("created_to"),
        )


class ForkForm(forms.Form):
    start_step = forms.IntegerField(min_value=0, max_value=1_000_000, required=False)
    application_version = forms.CharField(max_length=255, required=False)
