"""Whose turn comes first."""

from __future__ import annotations

import pytest

from apps.executors import fairness
from apps.registry.models import Application, Organization


@pytest.mark.django_db
def test_organizations_take_turns() -> None:
    quiet, noisy = (Organization.objects.create(name=name) for name in "ab")
    orders = Application.objects.create(organization=quiet, name="orders")
    for number in range(20):
        Application.objects.create(organization=noisy, name=f"app-{number}")

    turns = fairness.in_turns(Application.objects.all())

    assert orders in turns[:2]
    assert len(turns) == 21
