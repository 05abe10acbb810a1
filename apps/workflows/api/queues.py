"""Operations of the HTTP API: queues, as a connected executor knows them."""

from __future__ import annotations

from typing import Annotated

from django.http import HttpRequest
from ninja import Path, Router
from pydantic import Field

from apps import errors
from apps.api import APP, InApp, Int32, Output, Text, operation
from apps.executors import gateway
from apps.executors.protocol import messages
from apps.executors.protocol.rows import QueueRow
from apps.registry.callers import aapplication_in
from apps.registry.models import Permission

router = Router()

TAG = "Queues"
# What an SDK polls at where it does not say.
POLLING_INTERVAL_SECS = 1.0
Secs = Annotated[float, Field(json_schema_extra={"format": "double"})]


class InQueue(InApp):
    queue_name: Text


class Queue(Output):
    """A registered queue. A limit is null where there is none; `partition…` limits
    hold for each partition of it."""

    name: str
    application_name: str | None
    concurrency: Int32 | None
    worker_concurrency: Int32 | None
    rate_limit_max: Int32 | None
    rate_limit_period_secs: Secs | None
    polling_interval_secs: Secs
    priority_enabled: bool
    partition_queue: bool
    partition_concurrency: Int32 | None
    partition_worker_concurrency: Int32 | None
    partition_rate_limit_max: Int32 | None
    partition_rate_limit_period_secs: Secs | None


@operation(
    router,
    "GET",
    f"{APP}/queues",
    "listQueues",
    permission=Permission.APPLICATION_READ,
    tag=TAG,
    response=list[Queue],
)
async def list_queues(request: HttpRequest, path: Path[InApp]) -> list[Queue]:
    """Those that the application registered."""
    _, application = await aapplication_in(request, path, Permission.APPLICATION_READ)
    reply = await gateway.aask(application, messages.ListQueues())
    return [_written(row) for row in reply.output]


@operation(
    router,
    "GET",
    f"{APP}/queues/{{queueName}}",
    "getQueue",
    permission=Permission.APPLICATION_READ,
    tag=TAG,
    response=Queue,
)
async def get_queue(request: HttpRequest, path: Path[InQueue]) -> Queue:
    """One queue as the application has it registered."""
    _, application = await aapplication_in(request, path, Permission.APPLICATION_READ)
    reply = await gateway.aask(application, messages.GetQueue(name=path.queue_name))
    if reply.output is None:
        raise errors.NotFound("There is no such queue.")
    return _written(reply.output)


def _written(row: QueueRow) -> Queue:
    return Queue(
        name=row.name,
        application_name=row.application_name,
        concurrency=_limit(row.concurrency),
        worker_concurrency=_limit(row.worker_concurrency),
        rate_limit_max=_limit(row.rate_limit_max),
        rate_limit_period_secs=row.rate_limit_period_sec,
        polling_interval_secs=row.polling_interval_sec or POLLING_INTERVAL_SECS,
        priority_enabled=row.priority_enabled,
        partition_queue=row.partition_queue,
        partition_concurrency=_limit(row.partition_concurrency),
        partition_worker_concurrency=_limit(row.partition_worker_concurrency),
        partition_rate_limit_max=_limit(row.partition_rate_limit_max),
        partition_rate_limit_period_secs=row.partition_rate_limit_period_sec,
    )


def _limit(value: int | None) -> int | None:
    """Beyond 32 bits it limits nothing."""
    return value if value is not None and abs(value) < 2**31 else None
