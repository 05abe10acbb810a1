"""How the server answers what is of the HTTP API: beside Django's own handler.

Django's runs every request through the pages' middleware, which is synchronous, in a
thread. An operation that waits for an executor needs no thread, and most reads need no
database: here a thread is taken only when something asks for one.
"""

from __future__ import annotations

import asyncio
from typing import Any

from django.core.exceptions import RequestAborted
from django.core.handlers.asgi import ASGIHandler, get_script_prefix
from django.http.response import HttpResponseBase
from django.urls import set_script_prefix

from apps.api import problem
from conductor_site.edge import (
    AsgiApplication,
    Receive,
    Scope,
    Send,
    is_api_path,
)
from conductor_site.middleware import aanswer
from conductor_site.request_threads import request_thread


class ApiBeside:
    """Takes what is of the HTTP API; leaves the rest to `pages`."""

    def __init__(self, pages: AsgiApplication) -> None:
        self.pages = pages
        self.api = ApiHandler()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_ours = is_api_path(scope["path"])
        await (self.api if is_ours else self.pages)(scope, receive, send)


class ApiHandler(ASGIHandler):
    """Reads, routes and answers one request on the event loop."""

    def __init__(self) -> None:
        # No middleware.
        pass

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async with request_thread():
            await self.handle(scope, receive, send)

    async def handle(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            body = await self.read_body(receive)
        except RequestAborted:
            return
        with body:
            set_script_prefix(get_script_prefix(scope))
            answering = asyncio.create_task(self._answer(scope, body, send))
            # After the body there is nothing to receive but that the client has left.
            leaving = asyncio.create_task(receive())
            leaving.add_done_callback(lambda _: answering.cancel())
            try:
                await answering
            except asyncio.CancelledError:
                if not leaving.done():
                    raise
            finally:
                leaving.cancel()

    async def _answer(self, scope: Any, body: Any, send: Any) -> None:
        request, _ = self.create_request(scope, body)
        response: HttpResponseBase
        if request is None:
            response = problem(400, "The request is not UTF-8.")
        else:
            response = await aanswer(request)
        await self.send_response(response, send)
        response.close()
