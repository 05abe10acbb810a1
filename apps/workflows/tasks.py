"""Celery tasks of the workflows."""

from __future__ import annotations

from celery import shared_task

from apps.workflows.services import snapshots


@shared_task(name="workflows.sync_snapshots")
def sync_snapshots() -> None:
    """Bring the snapshots of connected applications up to date, a bounded part."""
    snapshots.sync_all()
