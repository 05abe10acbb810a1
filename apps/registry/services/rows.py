"""Inserting and checking rows, with failures that name the field."""

from __future__ import annotations

from typing import TypeVar

from django.core.exceptions import ValidationError
from django.db import IntegrityError, models, transaction

from apps import errors

M = TypeVar("M", bound=models.Model)


def inserted(row: M) -> M:
    """Insert a row whose fields pass their rules. Raises: InvalidInput, Conflict."""
    validate(row)
    try:
        with transaction.atomic():
            row.save(force_insert=True)
    except IntegrityError as exc:
        raise errors.Conflict("That name is taken.", field="name") from exc
    return row


def validate(row: models.Model) -> None:
    """Raises: InvalidInput, with the first field that breaks a rule."""
    try:
        row.full_clean(validate_unique=False, validate_constraints=False)
    except ValidationError as exc:
        field, messages = next(iter(exc.message_dict.items()))
        raise errors.InvalidInput(" ".join(messages), field=field) from exc
