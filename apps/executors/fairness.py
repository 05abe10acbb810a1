"""Whose turn comes first, among the applications of many organizations."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from itertools import chain, zip_longest
from typing import TypeVar

from django.db.models import F, Model, QuerySet, Window
from django.db.models.functions import RowNumber

from apps.registry.models import Application

M = TypeVar("M", bound=Model)


def in_turns(applications: Iterable[Application]) -> list[Application]:
    """Return them so that each organization has one before any has a second.

    Within that the order is random: where time runs out before the end is reached, it
    is not always the same ones that get nothing.
    """
    by_organization: dict[int, list[Application]] = defaultdict(list)
    for application in applications:
        by_organization[application.organization_id].append(application)
    queues = list(by_organization.values())
    random.shuffle(queues)
    for queue in queues:
        random.shuffle(queue)
    rounds = zip_longest(*queues)
    return [one for one in chain.from_iterable(rounds) if one is not None]


def longest_due(
    due: QuerySet[M], *, in_hand: Collection[tuple[int, int]], each: int, limit: int
) -> list[M]:
    """Return whose turn it is, among rows that have an application and a `due_at`: of
    each organization the longest due first, and a few at a time.

    `in_hand` are the organization and the application of what is under way or waits for
    a thread; those rows stay out, and so do organizations that have `each` of them. So
    the cost of a pass and the turn of an organization depend on no other's backlog.
    """
    counts = Counter(organization for organization, _ in in_hand)
    full = [organization for organization, n in counts.items() if n >= each]
    turn = Window(
        RowNumber(),
        partition_by=F("application__organization_id"),
        order_by=F("due_at").asc(),
    )
    rows = (
        due.exclude(application__in={application for _, application in in_hand})
        .exclude(application__organization__in=full)
        .annotate(turn=turn)
        .filter(turn__lte=each)
    )
    return list(rows.order_by("turn", "due_at")[:limit])
