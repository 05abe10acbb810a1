"""URLs of the workflow pages. Workflow ids are anything: see `OpaqueConverter`."""

from __future__ import annotations

from django.urls import path

from apps.workflows import views

app_name = "workflows"

_APP = "orgs/<slug:org>/apps/<str:app>/"
_LIST = _APP + "workflows/"
_ONE = _LIST + "<opaque:workflow_id>/"
# Beside the list, not below it, where every name is a workflow's id.
_BULK = _APP + "workflows-bulk/"

urlpatterns = [
    path(_LIST, views.workflow_list, name="workflow_list"),
    path(_ONE, views.workflow_detail, name="workflow_detail"),
    path(_ONE + "cancel/", views.workflow_cancel, name="workflow_cancel"),
    path(_ONE + "resume/", views.workflow_resume, name="workflow_resume"),
    path(_ONE + "fork/", views.workflow_fork, name="workflow_fork"),
    path(_ONE + "delete/", views.workflow_delete, name="workflow_delete"),
    path(
        _BULK + "cancel/",
        views.workflow_bulk,
        {"verb": "cancel"},
        name="workflow_bulk_cancel",
    ),
    path(
        _BULK + "resume/",
        views.workflow_bulk,
        {"verb": "resume"},
        name="workflow_bulk_resume",
    ),
    path(
        _BULK + "delete/",
        views.workflow_bulk,
        {"verb": "delete"},
        name="workflow_bulk_delete",
    ),
]
