"""Operations of the HTTP API: autoscaling policies, and what they come to."""

from __future__ import annotations

from typing import Annotated

from django.http import HttpRequest
from ninja import Path, Router
from pydantic import Field, Strict

from apps.api import APP, InApp, Input, Int64, Output, Text, omitted, operation
from apps.monitoring import scaling, selectors
from apps.monitoring.models import AutoscalingPolicy
from apps.monitoring.scaling import Backlog, Recommendation
from apps.monitoring.services import autoscaling
from apps.registry.callers import aapplication_in, application_in
from apps.registry.models import Permission
from apps.registry.remembered import arecall

router = Router()

TAG = "Queues"
POLICY = f"{APP}/autoscaling-policy"
Count = Annotated[
    int, Field(ge=0, le=2**63 - 1, json_schema_extra={"format": "int64"}), Strict()
]


class InVersion(InApp):
    version: Text


class RolloutPolicy(Input):
    """What old versions may have while a new one is rolled out. Without it, only the
    latest version is in the answer."""

    max_old_application_versions: Count | None = omitted()
    max_executors_for_old_application_versions: Count | None = omitted()


class AutoscalePolicy(Input):
    """The queue whose backlog sizes the fleet."""

    queue: Text
    rollout: RolloutPolicy | None = omitted()


class PolicyOutputBody(Output):
    policy: AutoscalePolicy


class QueueAutoscale(Output):
    """How many executors one version needs. `queueName` is absent when the policy's
    queue is no longer usable; `observedAt` is in epoch milliseconds."""

    application_version: str
    is_latest: bool
    desired_executors: Int64
    queue_name: str | None = omitted()
    queue_depth: Int64
    observed_at: Int64


@operation(
    router,
    "GET",
    POLICY,
    "getAutoscalingPolicy",
    permission=Permission.APPLICATION_READ,
    tag=TAG,
    response=PolicyOutputBody,
)
def get_autoscaling_policy(request: HttpRequest, path: Path[InApp]) -> PolicyOutputBody:
    """404 where the application has none."""
    _, application = application_in(request, path, Permission.APPLICATION_READ)
    return _written(selectors.autoscaling_policy_of(application))


@operation(
    router,
    "PUT",
    POLICY,
    "setAutoscalingPolicy",
    permission=Permission.APPLICATION_WRITE,
    tag=TAG,
    response=PolicyOutputBody,
)
def set_autoscaling_policy(
    request: HttpRequest, path: Path[InApp], body: AutoscalePolicy
) -> PolicyOutputBody:
    """Checked with an executor: the queue must exist and have a worker concurrency."""
    actor, application = application_in(request, path, None)
    rollout = body.rollout or RolloutPolicy()
    policy = autoscaling.set_policy(
        actor=actor,
        application=application,
        queue=body.queue,
        has_rollout=body.rollout is not None,
        max_old_versions=rollout.max_old_application_versions,
        max_executors_per_old_version=(
            rollout.max_executors_for_old_application_versions
        ),
    )
    return _written(policy)


@operation(
    router,
    "DELETE",
    POLICY,
    "deleteAutoscalingPolicy",
    permission=Permission.APPLICATION_WRITE,
    tag=TAG,
    status=204,
)
def delete_autoscaling_policy(request: HttpRequest, path: Path[InApp]) -> None:
    """Also where there is none."""
    actor, application = application_in(request, path, None)
    autoscaling.delete_policy(actor=actor, application=application)


@operation(
    router,
    "GET",
    f"{APP}/autoscale",
    "getAutoscale",
    permission=Permission.APPLICATION_READ,
    tag=TAG,
    response=list[QueueAutoscale],
)
async def get_autoscale(
    request: HttpRequest, path: Path[InApp]
) -> list[QueueAutoscale]:
    """The latest version first. A version that is not here may be stopped."""
    policy, backlog = await _observed(request, path)
    found = scaling.recommend(policy, backlog)
    return [_recommended(one, policy, backlog) for one in found]


@operation(
    router,
    "GET",
    f"{APP}/autoscale/versions/{{version}}",
    "getVersionAutoscale",
    permission=Permission.APPLICATION_READ,
    tag=TAG,
    response=QueueAutoscale,
    is_extension=True,
)
async def get_version_autoscale(
    request: HttpRequest, path: Path[InVersion]
) -> QueueAutoscale:
    """One version, or `latest`; an old one that has no work left needs none."""
    policy, backlog = await _observed(request, path)
    found = scaling.recommend_version(policy, backlog, path.version)
    return _recommended(found, policy, backlog)


async def _observed(
    request: HttpRequest, path: InApp
) -> tuple[AutoscalingPolicy, Backlog]:
    _, application = await aapplication_in(request, path, Permission.APPLICATION_READ)
    policy = await arecall(
        ("autoscaling policy", application.pk),
        lambda: selectors.autoscaling_policy_of(application),
    )
    return policy, await scaling.backlog_of(application, policy.queue)


def _written(policy: AutoscalingPolicy) -> PolicyOutputBody:
    rollout = {
        "maxOldApplicationVersions": policy.max_old_versions,
        "maxExecutorsForOldApplicationVersions": policy.max_executors_per_old_version,
    }
    written = {
        "queue": policy.queue,
        "rollout": rollout if policy.has_rollout else None,
    }
    return PolicyOutputBody.model_validate({"policy": written})


def _recommended(
    one: Recommendation, policy: AutoscalingPolicy, backlog: Backlog
) -> QueueAutoscale:
    return QueueAutoscale(
        application_version=one.version,
        is_latest=one.is_latest,
        desired_executors=one.desired_executors,
        queue_name=policy.queue if backlog.is_usable else None,
        queue_depth=one.queue_depth,
        observed_at=backlog.observed_at_ms,
    )
