"""The site: settings, URLs and entry points. It knows every app; no app knows it."""

from conductor_site.celery import app as celery_app

__all__ = ["celery_app"]
