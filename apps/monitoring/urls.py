"""URLs of the monitoring that are not of the HTTP API."""

from __future__ import annotations

from django.urls import path

from apps.monitoring import views

app_name = "monitoring"

urlpatterns = [path("metrics", views.health_metrics, name="health_metrics")]
