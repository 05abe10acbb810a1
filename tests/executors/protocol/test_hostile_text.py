"""Text of strangers is read in bounded time, and in bounded memory.

The limits are generous: what they are there to catch took minutes.
"""

from __future__ import annotations

import json
import time

import pytest

from apps import errors
from apps.executors.protocol import codec, replies
from apps.executors.protocol.messages import Cancel, ListWorkflows

TRACE = "Traceback (most recent call last)"
PATIENCE_SECS = 5.0


@pytest.mark.parametrize(
    "text",
    [
        f"boom: {TRACE}\n" + "Error" * 20_000,
        f"boom: {TRACE}\n" + "Error" * 200_000,
        f"boom: {TRACE}\n" + "a.Error" * 150_000 + " ",
        f"boom: {TRACE}\n" + "Error\n" * 200_000,
        f"boom: {TRACE}" * 30_000,
        "\n" * 1_000_000,
        " " * 1_000_000 + "x",
        "Exc" * 300_000 + ":",
    ],
    ids=range(8),
)
def test_error_texts_made_for_backtracking(text: str) -> None:
    begun = time.monotonic()
    reply = codec.parse_reply(Cancel(("w",)), json.dumps({"error_message": text}))
    summary = codec.error_summary(reply.error_message or "")
    codec.error_summary(text)

    assert time.monotonic() - begun < PATIENCE_SECS
    assert len(summary) <= codec.SUMMARY_CHARS
    assert len(reply.error_message or "") <= 2 * replies.ERROR_CHARS + 3


@pytest.mark.parametrize(
    ("text", "summary"),
    [
        ("no such workflow", "no such workflow"),
        (
            f"Exception encountered: {TRACE}:\n  File 'a.py'\n"
            "sqlalchemy.exc.OperationalError: locked\n",
            "Exception encountered: sqlalchemy.exc.OperationalError: locked",
        ),
        (f"failed: {TRACE}:\n  File 'a.py'\n", "failed"),
        (f"failed: {TRACE}:\nnot one: Error\nMyException: x", "failed: MyException: x"),
        ("", "The executor gave no reason."),
    ],
)
def test_summary_is_the_last_line_of_a_trace(text: str, summary: str) -> None:
    assert codec.error_summary(text) == summary


def test_the_end_of_a_long_trace_is_kept() -> None:
    text = f"failed: {TRACE}:\n" + "  File 'a.py'\n" * 10_000 + "ValueError: no\n"
    reply = replies.SuccessReply.parse({"error_message": text})

    assert codec.error_summary(reply.error_message or "") == "failed: ValueError: no"


@pytest.mark.parametrize(
    "text",
    ["x" * 1_000_000, '"request_id"' * 100_000, '"request_id":"' + "\\" * 1_000_000],
)
def test_an_id_is_looked_for_at_the_head_and_at_the_end_only(text: str) -> None:
    begun = time.monotonic()
    member = '"request_id": "1"'

    assert codec.peek_request_id(text) is None
    assert codec.peek_request_id(f"{{{member}, {text}}}") == "1"
    assert codec.peek_request_id(f"{text}, {member}}}") == "1"
    assert codec.peek_request_id(f"{text}{member}{'x' * 10_000}") is None
    assert time.monotonic() - begun < PATIENCE_SECS


def test_no_payload_looks_like_an_id() -> None:
    payload = json.dumps({"request_id": "not mine"})
    reply = json.dumps({"output": payload, "filler": "x" * 10_000, "request_id": "1"})

    assert codec.peek_request_id(reply) == "1"


@pytest.mark.parametrize("depth", [900, 100_000, 3_000_000])
@pytest.mark.parametrize("member", ["output", "error_message"])
def test_deep_nesting_is_no_reply(member: str, depth: int) -> None:
    text = f'{{"{member}": ' + "[" * depth + "]" * depth + "}"
    try:
        codec.parse_reply(ListWorkflows(), text)
    except errors.ProtocolError as exc:
        assert "not JSON" in exc.message or "holds more than" in exc.message
