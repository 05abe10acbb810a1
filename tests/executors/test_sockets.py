"""Asking over one socket."""

from __future__ import annotations

import pytest

from apps.executors.sockets import NotSent, Socket


async def test_a_question_that_meets_a_closing_connection_was_not_sent() -> None:
    async def send(text: str) -> None:
        raise ConnectionResetError("The connection is closed")

    async def close(code: int, reason: str) -> None:
        raise AssertionError("it is closed")

    socket = Socket("c1", application_id=1, api_key_id=None, send=send, close=close)

    with pytest.raises(NotSent):
        await socket.ask("{}", request_id="r1", timeout_s=1)
