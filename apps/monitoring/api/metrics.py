"""Operations of the HTTP API: metrics, as JSON and for Prometheus."""

from __future__ import annotations

import hashlib
from typing import Annotated

from django.core.cache import caches
from django.http import HttpRequest, HttpResponse
from ninja import Path, Query, Router
from pydantic import Field

from apps import errors
from apps.api import APP, InApp, Int32, Int64, Output, Params, Text, Time, operation
from apps.executors import clock
from apps.monitoring import openmetrics, selectors
from apps.registry import selectors as registry
from apps.registry.auth import Actor
from apps.registry.callers import actor_in, application_in, caller_of
from apps.registry.models import Permission

router = Router()

# Several servers of one Prometheus ask within the same second.
REMEMBER_SECS = 2
Filter = Annotated[list[Text], Field(max_length=1_000)]


class Metric(Output):
    """What was counted in one bucket of `granularity` seconds."""

    app_id: str
    metric_type: str = Field(
        description="workflow_count, step_count, recovery_count, or what newer SDKs say"
    )
    metric_name: str
    granularity: Int32
    time_bucket: Time
    value: Int64


class Range(Params):
    start_time: Time
    end_time: Time


class Scraped(Params):
    """Empty for everything."""

    applications: Filter = []
    workflow_names: Filter = Field([], alias="workflow_names")
    metrics: Filter = []


@operation(
    router,
    "GET",
    f"{APP}/metrics",
    "listMetrics",
    permission=Permission.METRIC_READ,
    tag="Metrics",
    response=list[Metric],
)
def list_metrics(
    request: HttpRequest, path: Path[InApp], query: Query[Range]
) -> list[Metric]:
    """What was counted of workflows, steps and recoveries within a time."""
    _, application = application_in(request, path, Permission.METRIC_READ)
    granularity, counts = selectors.counts_between(
        application, query.start_time, query.end_time
    )
    return [
        Metric(
            app_id=str(application.pk),
            metric_type=metric_type,
            metric_name=name,
            granularity=granularity,
            time_bucket=bucket,
            value=value,
        )
        for (metric_type, name, bucket), value in counts
    ]


@operation(
    router,
    "GET",
    "/v1/metrics",
    "scrapeMetrics",
    permission=Permission.METRIC_READ,
    tag="Metrics",
    media_types=(openmetrics.OPENMETRICS_TYPE, openmetrics.TEXT_TYPE),
    is_extension=True,
)
def scrape_metrics(request: HttpRequest, query: Query[Scraped]) -> HttpResponse:
    """All applications that the key is for, in one answer."""
    actor = _actor(request)
    actor.require(Permission.METRIC_READ)
    content_type = openmetrics.content_type(request.headers.get("Accept", ""))
    filters = [query.applications, query.workflow_names, query.metrics]
    asked = repr((actor.organization.pk, _scope(actor), content_type, filters))
    key = f"scrape-{hashlib.sha256(asked.encode()).hexdigest()}"
    body = caches["memory"].get(key)
    if body is None:
        body = openmetrics.write(_scrape(actor, query), content_type)
        caches["memory"].set(key, body, REMEMBER_SECS)
    response = HttpResponse(body, content_type=content_type)
    response["Vary"] = "Accept, Authorization"
    return response


def _scrape(actor: Actor, query: Scraped) -> openmetrics.Scrape:
    families = openmetrics.families_named(query.metrics)
    applications = registry.applications_of(actor)
    if query.applications:
        applications = applications.filter(name__in=query.applications)
    return openmetrics.Scrape(
        families=families,
        observed=openmetrics.observe(list(applications), clock.now()),
        workflow_names=frozenset(query.workflow_names),
    )


def _scope(actor: Actor) -> list[int] | None:
    ids = actor.application_ids
    return None if ids is None else sorted(ids)


def _actor(request: HttpRequest) -> Actor:
    """The caller in the organization of its key; a person's, where it is one only."""
    caller = caller_of(request)
    if caller.key is not None:
        return actor_in(request, caller.key.organization.name)
    names = (
        []
        if caller.user is None
        else [one.name for one in registry.organizations_of(caller.user)[:2]]
    )
    if len(names) != 1:
        raise errors.InvalidInput(
            "You belong to more than one organization, or to none: use an API key."
        )
    return actor_in(request, names[0])
