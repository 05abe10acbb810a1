"""Operations of the HTTP API on metrics, autoscaling and alerting rules."""

from apps.monitoring.api import alerting, autoscaling, metrics

routers = (metrics.router, autoscaling.router, alerting.router)
