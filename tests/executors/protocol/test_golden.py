"""Replies recorded from real SDK applications are read in full."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from apps.executors.protocol import codec
from apps.executors.protocol.messages import MESSAGES

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
FILES = sorted(p for p in GOLDEN.glob("*/*.json") if p.stem != "no_such_type")


def exchanges(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(path.read_text())["exchanges"]
    return [e for e in found if isinstance(e.get("response"), dict)]


@pytest.mark.parametrize("path", FILES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_every_recorded_reply_is_read(path: Path) -> None:
    message = MESSAGES[path.stem]
    for exchange in exchanges(path):
        raw = exchange["response"]

        reply = message.Reply.parse(raw)

        assert reply.error_message == (raw.get("error_message") or None)
        rows = getattr(reply, "output", None)
        if isinstance(rows, list):
            wanted = [r for r in raw.get("output") or [] if isinstance(r, dict)]
            assert len(rows) == len(wanted)


@pytest.mark.parametrize("path", FILES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_a_reply_names_its_request_without_being_parsed(path: Path) -> None:
    for exchange in exchanges(path):
        raw = exchange["response"]
        if isinstance(raw.get("request_id"), str):
            assert codec.peek_request_id(json.dumps(raw)) == raw["request_id"]
