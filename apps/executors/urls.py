"""URLs of the executors' pages."""

from __future__ import annotations

from django.urls import path

from apps.executors import views

app_name = "executors"

_APP = "orgs/<slug:org>/apps/<str:app>/"

urlpatterns = [
    # Organization
    path("orgs/<slug:org>/apps/", views.application_list, name="application_list"),
    path("orgs/<slug:org>/rejected/", views.rejected_list, name="rejected_list"),
    # Application
    path(_APP, views.application_detail, name="application_detail"),
    path(_APP + "connect/", views.application_connect, name="application_connect"),
    path(
        _APP + "fragments/executors/",
        views.executor_table_fragment,
        name="executor_table_fragment",
    ),
    path(
        _APP + "fragments/connection/",
        views.connection_fragment,
        name="connection_fragment",
    ),
    # Recovery ledger
    path(_APP + "recoveries/", views.recovery_list, name="recovery_list"),
    path(_APP + "recoveries/<int:pk>/", views.recovery_detail, name="recovery_detail"),
    path(
        _APP + "recoveries/<int:pk>/retry/",
        views.recovery_retry,
        name="recovery_retry",
    ),
]
