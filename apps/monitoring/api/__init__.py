"""Operations of the HTTP API on metrics, autoscaling and alerting rules."""

from apps.monitoring.api import metrics

routers = (metrics.router,)
