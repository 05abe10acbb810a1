"""Structured logs, with executor keys redacted wherever they may appear."""

from __future__ import annotations

import json
import logging
import re
from datetime import UTC, datetime
from typing import Any

REDACTED = "[redacted]"
_KEY = re.compile(r"dbos_[A-Za-z0-9_\-]+")
_PATH = re.compile(r"(/websocket/[^/\s\"']+/)[^/\s\"'?#]+")
_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


def redact(text: str) -> str:
    """Replace keys in free text; an executor's key is part of its URL path."""
    return _KEY.sub(REDACTED, _PATH.sub(rf"\1{REDACTED}", text))


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return {k: v for k, v in vars(record).items() if k not in _PLAIN}


class TextFormatter(logging.Formatter):
    """One readable line: time, level, logger, sentence, fields."""

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        fields = " ".join(f"{k}={v}" for k, v in _fields(record).items())
        return redact(f"{line} {fields}" if fields else line)


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        body: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            body["exception"] = self.formatException(record.exc_info)
        return redact(json.dumps(body, default=str))


def build_logging(*, level: str, log_format: str) -> dict[str, Any]:
    """Return the LOGGING setting; `log_format` is `text` or `json`."""
    formatter: dict[str, Any] = (
        {"()": JsonFormatter}
        if log_format == "json"
        else {
            "()": TextFormatter,
            "format": "%(asctime)s %(levelname)-7s %(name)s: %(message)s",
        }
    )
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": formatter},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
        "root": {"handlers": ["stderr"], "level": level},
        "loggers": {
            "django": {"level": level},
            "django.server": {"handlers": ["stderr"], "propagate": False},
            "daphne.http_protocol": {"level": "WARNING"},
            "celery": {"level": "WARNING"},
            # A line for each step of each request.
            "mcp": {"level": "WARNING"},
        },
    }
