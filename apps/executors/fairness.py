"""Whose turn comes first, among the applications of many organizations."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable
from itertools import chain, zip_longest

from apps.registry.models import Application


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
