"""URLs of the workflow pages. Workflow ids are anything: see `OpaqueConverter`."""

from __future__ import annotations

from django.urls import path

from apps.workflows import views

app_name = "workflows"

_LIST = "orgs/<slug:org>/apps/<str:app>/workflows/"
_ONE = _LIST + "<opaque:workflow_id>/"

urlpatterns = [
    path(_LIST, views.workflow_list, name="workflow_list"),
    path(_ONE, views.workflow_detail, name="workflow_detail"),
    path(_ONE + "cancel/", views.workflow_cancel, name="workflow_cancel"),
    path(_ONE + "resume/", views.workflow_resume, name="workflow_resume"),
    path(_ONE + "fork/", views.workflow_fork, name="workflow_fork"),
    path(_ONE + "delete/", views.workflow_delete, name="workflow_delete"),
]
