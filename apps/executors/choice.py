"""Which of an application's databases a person looks at: kept while they navigate."""

from __future__ import annotations

from django.http import HttpRequest

from apps import errors
from apps.executors import databases
from apps.registry.models import Application


def choose_database(request: HttpRequest, application: Application) -> None:
    """Take the choice from the address or, where it names none, from the session.

    A choice that is no more, or no choice any more, is dropped; a command that was
    meant for it is refused. Queries: one. Raises: Conflict.
    """
    name = f"database-{application.pk}"
    label = request.GET.get("database", request.session.get(name, ""))
    if not label and name not in request.session:
        return
    labels = [one.label for one in databases.list_present(application)]
    if label and label not in labels and request.method == "POST":
        raise errors.Conflict(
            f"Database {label[:24]} was chosen, but no executor of {application.name} "
            "works on it any more. Nothing was sent."
        )
    if label not in labels or len(labels) < 2:
        request.session.pop(name, None)
        return
    request.session[name] = application.chosen_database = label
