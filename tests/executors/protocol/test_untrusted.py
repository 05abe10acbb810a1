"""What strangers send is made storable before anything else sees it."""

from __future__ import annotations

import json

import pytest

from apps.executors.protocol import codec, messages


@pytest.mark.parametrize("hostile", ["a\x00b", "\ud800", "x" * 10_000, "💥\udfff"])
def test_workflow_text_can_be_encoded_and_holds_no_nul(hostile: str) -> None:
    row = {"WorkflowUUID": hostile, "WorkflowName": hostile, "Status": "PENDING"}
    reply = json.dumps({"type": "list_workflows", "output": [row]})

    parsed = codec.parse_reply(messages.ListWorkflows(), reply).output[0]

    assert "\x00" not in parsed.workflow_id
    assert parsed.workflow_id.encode()
    assert parsed.name.encode()
