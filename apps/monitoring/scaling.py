"""How many executors each version of an application needs, by its queue's backlog.

Workflows finish on the version that started them, so each version is sized by its own
backlog. Whoever scales by this may stop what is not in the answer: what cannot be known
is an error, never a zero. See docs/metrics.md.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from dataclasses import dataclass

from django.core.cache import caches

from apps import errors
from apps.executors import gateway
from apps.executors.protocol.messages import (
    GetQueue,
    GetWorkflowAggregates,
    ListApplicationVersions,
)
from apps.executors.protocol.rows import QueueRow
from apps.monitoring.models import AutoscalingPolicy
from apps.registry.models import Application

# Autoscalers give up after 10 s.
ASK_TIMEOUT_S = 8.0
# One scaler for each version of an application polls.
REMEMBER_SECS = 3


@dataclass(frozen=True, slots=True)
class Backlog:
    """What executors say of a queue. `versions` has the latest first; `depth` is what
    waits or runs, by version."""

    queue: QueueRow | None
    versions: tuple[str, ...]
    depth: dict[str, int]
    observed_at_ms: int

    @property
    def is_usable(self) -> bool:
        return self.queue is not None and not unusable(self.queue)


@dataclass(frozen=True, slots=True)
class Recommendation:
    version: str
    is_latest: bool
    desired_executors: int
    queue_depth: int


def unusable(queue: QueueRow) -> str:
    """Say why a queue sizes no fleet; empty where it does."""
    if not queue.worker_concurrency or queue.worker_concurrency < 1:
        return "It has no worker concurrency, so one executor would take everything."
    return ""


async def backlog_of(application: Application, queue_name: str) -> Backlog:
    """Ask the executors, or remember what they said seconds ago.
    Raises: ConductorError where it cannot be known."""
    asked = f"{application.pk}-{queue_name}".encode()
    key = f"backlog-{hashlib.sha256(asked).hexdigest()}"
    backlog: Backlog | None = caches["memory"].get(key)
    if backlog is None:
        backlog = await _ask(application, queue_name)
        caches["memory"].set(key, backlog, REMEMBER_SECS)
    return backlog


async def _ask(application: Application, queue_name: str) -> Backlog:
    observed_at_ms = time.time_ns() // 1_000_000
    queue, versions, depths = await asyncio.gather(
        *(
            gateway.aask(application, question, timeout_s=ASK_TIMEOUT_S)
            for question in (
                GetQueue(name=queue_name),
                ListApplicationVersions(),
                # Of nobody in particular, too: unowned work runs here.
                GetWorkflowAggregates(
                    status=("ENQUEUED", "PENDING"),
                    queue_name=(queue_name,),
                    group_by_application_version=True,
                ),
            )
        )
    )
    names = tuple(dict.fromkeys(row.version_name for row in versions.output))
    if not names:
        raise errors.ProtocolError("The executor knows no version of its application.")
    depth: dict[str, int] = {}
    for row in depths.output:
        if row.count is None:
            raise errors.ProtocolError("The executor did not count the queue.")
        # Work of no version is for the latest.
        version = row.group.get("application_version") or names[0]
        depth[version] = depth.get(version, 0) + row.count
    return Backlog(queue.output, names, depth, observed_at_ms)


def recommend(policy: AutoscalingPolicy, backlog: Backlog) -> list[Recommendation]:
    """The latest version first, then old ones that have work left, as many as the
    policy allows, the newest first."""
    latest, *old = backlog.versions
    found = [_recommend(policy, backlog, latest)]
    if backlog.is_usable:
        with_work = [version for version in old if backlog.depth.get(version)]
        allowed = with_work[: policy.max_old_versions or 0]
        found += [_recommend(policy, backlog, version) for version in allowed]
    return found


def recommend_version(
    policy: AutoscalingPolicy, backlog: Backlog, version: str
) -> Recommendation:
    """One version, whatever the number of old ones; `latest` is the latest. An old one
    without work needs none. Raises: NotFound for one that was never registered;
    ProtocolError for an old one whose queue is no longer usable."""
    if version == "latest":
        version = backlog.versions[0]
    if version not in backlog.versions:
        raise errors.NotFound("No such version is registered.")
    if version != backlog.versions[0] and not backlog.is_usable:
        raise errors.ProtocolError(
            f"Queue {policy.queue} is no longer usable, so old versions have no size."
        )
    return _recommend(policy, backlog, version)


def _recommend(
    policy: AutoscalingPolicy, backlog: Backlog, version: str
) -> Recommendation:
    is_latest = version == backlog.versions[0]
    depth = backlog.depth.get(version, 0) if backlog.is_usable else 0
    desired = _executors_for(backlog.queue, depth) if backlog.queue and depth else 0
    if is_latest:
        desired = max(desired, 1)
    elif policy.max_executors_per_old_version is not None:
        desired = min(desired, policy.max_executors_per_old_version)
    return Recommendation(version, is_latest, desired, depth)


def _executors_for(queue: QueueRow, depth: int) -> int:
    """As many as work on the whole backlog at once, within the queue's own limit."""
    per_executor = queue.worker_concurrency or 1
    desired = _divided_up(depth, per_executor)
    # On partitioned queues, older SDKs hold this limit for each partition.
    if queue.concurrency and not queue.partition_queue:
        desired = min(desired, _divided_up(queue.concurrency, per_executor))
    return desired


def _divided_up(whole: int, part: int) -> int:
    return -(-whole // part)
