"""Inserting and checking rows, with failures that name the field."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from django.core.exceptions import ValidationError
from django.db import IntegrityError, models, transaction

from apps import errors

M = TypeVar("M", bound=models.Model)


def inserted(row: M, *, message: str = "That name is taken.", field: str = "name") -> M:
    """Insert a row whose fields pass their rules. Raises: InvalidInput; Conflict, where
    `message` says of `field` what is there already."""
    validate(row)
    with unique(message, field):
        row.save(force_insert=True)
    return row


@contextmanager
def unique(message: str = "That name is taken.", field: str = "name") -> Iterator[None]:
    """What would be there twice is a Conflict."""
    try:
        with transaction.atomic():
            yield
    except IntegrityError as exc:
        raise errors.Conflict(message, field=field) from exc


def validate(row: models.Model, *fields: str) -> None:
    """Check all fields, or those named. Raises: InvalidInput, with the first field that
    breaks a rule."""
    others = {field.name for field in row._meta.fields} - set(fields)
    try:
        row.full_clean(
            exclude=others if fields else None,
            validate_unique=False,
            validate_constraints=False,
        )
    except ValidationError as exc:
        field, messages = next(iter(exc.message_dict.items()))
        raise errors.InvalidInput(" ".join(messages), field=field) from exc


def free_name(wanted: str, suffix: str, is_taken: Callable[[str], bool]) -> str:
    """Return a free name near `wanted`, of 3 to 30 lowercase letters, digits and
    underscores."""
    stem = re.sub(r"[^a-z0-9_]+", "_", wanted.lower()).strip("_")[:24]
    stem = stem if len(stem) >= 3 else f"{stem}_{suffix}".lstrip("_")
    name = stem
    while is_taken(name):
        name = f"{stem}_{secrets.token_hex(2)}"
    return name
