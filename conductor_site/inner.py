"""Calling an operation of the API from within, for the surfaces that are made of its
operations: permissions, audit, limits and errors are those of the operation itself."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlencode

from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest
from django.http.response import HttpResponseBase

from conductor_site.middleware import aanswer

_OWN_HEADERS = {"accept-encoding", "content-length", "content-type", "user-agent"}


async def call(
    request: HttpRequest,
    method: str,
    path: str,
    *,
    surface: str,
    query: Mapping[str, Any] | None = None,
    body: Any = None,
) -> HttpResponseBase:
    """Answer for whoever sent `request`. `path` is percent-encoded; a value of None is
    left out of a `query`, and a `body` of None is none; the audit log has `surface`
    before the name of the client."""
    content = b"" if body is None else json.dumps(body).encode()
    agent = f"{surface} {request.headers.get('User-Agent', '')}".strip()
    headers = {
        **{k: v for k, v in request.headers.items() if k.lower() not in _OWN_HEADERS},
        "Content-Type": "application/json",
        "Content-Length": str(len(content)),
        "User-Agent": agent,
    }
    scope = {
        "type": "http",
        "method": method,
        "scheme": request.scheme,
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": _as_query(query or {}).encode(),
        "headers": [
            (name.lower().encode("latin1"), value.encode("latin1", "replace"))
            for name, value in headers.items()
        ],
        "client": [request.META.get("REMOTE_ADDR", ""), 0],
    }
    return await aanswer(ASGIRequest(scope, io.BytesIO(content)))


def _as_query(values: Mapping[str, Any]) -> str:
    texts = {
        name: json.dumps(value) if isinstance(value, bool) else value
        for name, value in values.items()
        if value is not None
    }
    return urlencode(texts, doseq=True)
