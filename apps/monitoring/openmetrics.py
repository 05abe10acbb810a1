"""The families of `/v1/metrics`, made of what was collected. See docs/metrics.md."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from prometheus_client import exposition, openmetrics
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from apps import errors
from apps.monitoring import selectors, series
from apps.monitoring.models import MetricWindow
from apps.monitoring.series import Key, Measures
from apps.registry.models import Application

PREFIX = "dbos_conductor_v1_"
OPENMETRICS_TYPE = openmetrics.exposition.CONTENT_TYPE_LATEST
TEXT_TYPE = exposition.CONTENT_TYPE_PLAIN_0_0_4


@dataclass(frozen=True, slots=True)
class Sample:
    """`at` is the epoch second of what is about a minute; None: it is about now."""

    labels: Mapping[str, str]
    value: float
    at: int | None = None


@dataclass(frozen=True, slots=True)
class Observed:
    """What a scrape is made of: everything known of one application."""

    application: Application
    # The end of the window that the first two are of.
    window_end: int
    window_secs: int
    workflows: list[tuple[Key, Measures]]
    steps: list[tuple[Key, Measures]]
    # None where nobody can tell.
    in_flight: list[tuple[Key, Measures]] | None
    executors: list[tuple[str, str, int]]


Samples = Callable[[Observed], Iterator[Sample]]


@dataclass(frozen=True, slots=True)
class Family:
    name: str
    help: str
    samples: Samples


def _windowed(
    of: str, labels: tuple[str, ...], measure: str, divisor: float | None, *, zero: bool
) -> Samples:
    """Samples of the last window: rates, which have no `divisor` but the window's
    seconds, are there for each name that had any work, zero or not; a maximum only
    where there is one."""

    def samples(observed: Observed) -> Iterator[Sample]:
        by = divisor or observed.window_secs
        for key, measures in getattr(observed, of):
            value = measures.get(measure, 0 if zero else None)
            if value is not None:
                named = dict(zip(labels, key, strict=True))
                yield Sample(named, value / by, observed.window_end)

    return samples


_BY_WORKFLOW = ("workflow_name", "queue_name")
_BY_STEP = ("step_name",)


def _workflow_rate(measure: str) -> Samples:
    return _windowed("workflows", _BY_WORKFLOW, measure, None, zero=True)


def _workflow_max(measure: str) -> Samples:
    return _windowed("workflows", _BY_WORKFLOW, measure, 1000, zero=False)


def _step_rate(measure: str) -> Samples:
    return _windowed("steps", _BY_STEP, measure, None, zero=True)


def _enqueued(observed: Observed) -> Iterator[Sample]:
    """Also zero, for the queues on which something happened within the minute."""
    if observed.in_flight is None:
        return
    waiting = {key: 0 for key, _ in observed.workflows if key[1]}
    waiting |= {k: m.get("enqueued", 0) for k, m in observed.in_flight}
    for key, count in waiting.items():
        # On no queue, and only running.
        if key[1] or count:
            yield Sample(dict(zip(_BY_WORKFLOW, key, strict=True)), count)


def _pending(observed: Observed) -> Iterator[Sample]:
    if observed.in_flight is None:
        return
    running = {key[0]: 0 for key, _ in observed.workflows}
    for name, measures in _by_name(observed.in_flight).items():
        running[name] = measures.get("pending", 0)
    for name, count in running.items():
        yield Sample({"workflow_name": name}, count)


def _oldest_enqueued(observed: Observed) -> Iterator[Sample]:
    for key, measures in observed.in_flight or ():
        oldest_ms = measures.get("oldest_enqueued_ms")
        if oldest_ms is not None:
            yield Sample(dict(zip(_BY_WORKFLOW, key, strict=True)), oldest_ms / 1000)


def _oldest_pending(observed: Observed) -> Iterator[Sample]:
    for name, measures in _by_name(observed.in_flight or []).items():
        oldest_ms = measures.get("oldest_pending_ms")
        if oldest_ms is not None:
            yield Sample({"workflow_name": name}, oldest_ms / 1000)


def _executors(observed: Observed) -> Iterator[Sample]:
    for state, version, count in observed.executors:
        yield Sample({"status": state, "application_version": version}, count)


def _by_name(in_flight: list[tuple[Key, Measures]]) -> dict[str, Measures]:
    found: dict[str, Measures] = defaultdict(dict)
    for (name, _), measures in in_flight:
        series.merge(found[name], measures)
    return found


FAMILIES = (
    Family(
        "workflow_started_rate",
        "Workflows created per second, enqueued ones included, in the last minute.",
        _workflow_rate("started"),
    ),
    Family(
        "workflow_dequeued_rate",
        "Workflows taken from their queue per second, in the last minute.",
        _workflow_rate("dequeued"),
    ),
    Family(
        "workflow_success_rate",
        "Workflows that succeeded per second, in the last minute.",
        _workflow_rate("succeeded"),
    ),
    Family(
        "workflow_failed_rate",
        "Workflows that failed, or were recovered too often, per second, in the last "
        "minute.",
        _workflow_rate("failed"),
    ),
    Family(
        "workflow_cancelled_rate",
        "Workflows cancelled per second, in the last minute.",
        _workflow_rate("cancelled"),
    ),
    Family("workflow_enqueued_count", "Workflows that wait on their queue.", _enqueued),
    Family("workflow_pending_count", "Workflows that run.", _pending),
    Family(
        "workflow_oldest_enqueued_timestamp_seconds",
        "When the workflow was created that waits longest.",
        _oldest_enqueued,
    ),
    Family(
        "workflow_oldest_pending_timestamp_seconds",
        "When the oldest workflow that runs was created.",
        _oldest_pending,
    ),
    Family(
        "workflow_max_queue_wait_seconds",
        "The longest wait of workflows taken from their queue in the last minute.",
        _workflow_max("max_queue_wait_ms"),
    ),
    Family(
        "workflow_max_total_latency_seconds",
        "The longest time from creation to success, of the last minute.",
        _workflow_max("max_total_latency_ms"),
    ),
    Family(
        "step_success_rate",
        "Steps that succeeded per second, in the last minute.",
        _step_rate("succeeded"),
    ),
    Family(
        "step_failed_rate",
        "Steps that failed per second, in the last minute.",
        _step_rate("failed"),
    ),
    Family(
        "step_max_duration_seconds",
        "The longest successful step that ended in the last minute.",
        _windowed("steps", _BY_STEP, "max_duration_ms", 1000, zero=False),
    ),
    Family("executor_count", "Executors, by state and version.", _executors),
)
_BY_METRIC_NAME = {family.name: family for family in FAMILIES}


def families_named(names: Collection[str]) -> tuple[Family, ...]:
    """Those asked for, with or without the prefix; all if none is named.
    Raises: InvalidInput."""
    if not names:
        return FAMILIES
    wanted = {name.removeprefix(PREFIX) for name in names}
    if unknown := wanted - _BY_METRIC_NAME.keys():
        raise errors.InvalidInput(f"No such metric: {min(unknown)[:100]}.")
    return tuple(family for family in FAMILIES if family.name in wanted)


def observe(applications: Sequence[Application], now: datetime) -> list[Observed]:
    """Read what was collected. Queries: three, for any number of applications."""
    windows = selectors.last_windows(applications, now)
    collections = selectors.in_flight_collections(applications, now)
    executors: dict[int, list[tuple[str, str, int]]] = defaultdict(list)
    for application_id, state, version, count in selectors.executor_counts(
        applications
    ):
        executors[application_id].append((state, version, count))
    found = []
    for application in applications:
        window = windows.get(application.pk) or MetricWindow(starts_at=now)
        collection = collections.get(application.pk)
        found.append(
            Observed(
                application=application,
                window_end=int(window.ends_at.timestamp()),
                window_secs=window.duration_secs,
                workflows=series.read(window.workflows, "name", "queue"),
                steps=series.read(window.steps, "name"),
                in_flight=(
                    series.read(collection.in_flight, "name", "queue")
                    if collection
                    else None
                ),
                executors=executors[application.pk],
            )
        )
    return found


@dataclass(frozen=True, slots=True)
class Scrape(Collector):
    """One answer to Prometheus."""

    families: Sequence[Family]
    observed: Sequence[Observed]
    # Empty for all; what is not of a workflow stays.
    workflow_names: frozenset[str]

    def collect(self) -> Iterator[Metric]:
        for family in self.families:
            metric = Metric(f"{PREFIX}{family.name}", family.help, "gauge")
            for observed in self.observed:
                for sample in family.samples(observed):
                    if self._passes(sample):
                        labels = {"application": observed.application.name}
                        labels.update(sample.labels)
                        metric.add_sample(metric.name, labels, sample.value, sample.at)
            yield metric

    def _passes(self, sample: Sample) -> bool:
        name = sample.labels.get("workflow_name")
        return name is None or not self.workflow_names or name in self.workflow_names


def content_type(accept: str) -> str:
    """OpenMetrics for who takes it, as Prometheus does; else Prometheus' own text."""
    wants = "application/openmetrics-text" in accept.lower()
    return OPENMETRICS_TYPE if wants else TEXT_TYPE


def write(collector: Collector, content_type: str) -> bytes:
    writer = (
        openmetrics.exposition.generate_latest
        if content_type == OPENMETRICS_TYPE
        else exposition.generate_latest
    )
    return writer(collector)
