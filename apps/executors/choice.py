"""Which of an application's databases a person looks at: kept while they navigate."""

from __future__ import annotations

from django.http import HttpRequest

from apps.executors import databases
from apps.registry.models import Application


def choose_database(request: HttpRequest, application: Application) -> None:
    """Take the choice from the address or, where it names none, from the session.

    A choice that is no more, or no choice any more, is dropped. Queries: one.
    """
    name = f"database-{application.pk}"
    label = request.GET.get("database", request.session.get(name, ""))
    if not label and name not in request.session:
        return
    labels = [one.label for one in databases.list_present(application)]
    if label not in labels or len(labels) < 2:
        request.session.pop(name, None)
        return
    request.session[name] = application.chosen_database = label
