"""What a large reply took is free again as soon as it is dropped."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest

from apps import errors
from apps.executors import gateway, parsers
from apps.executors.protocol import codec, messages
from apps.registry.models import Application

ROOT = Path(__file__).resolve().parents[2]
MIB = 2**20
TARGET = gateway.Target("executor", "v1", "connection", "instance", codec.Peer("", ""))
# One large block raises glibc's own threshold; then large and small ones by turns.
BLOCKS = """
import psutil
from conductor_site import server
server.return_large_blocks()
bytes(30 * 2**20)
before = psutil.Process().memory_info().rss
large, small = [], []
for _ in range(20):
    large.append(b"x" * (5 * 2**20))
    small.append(b"x" * 2000)
large.clear()
print((psutil.Process().memory_info().rss - before) // 2**20)
"""


class Text(str):
    """A text that can be watched going."""


@pytest.fixture
def no_collection() -> Iterator[None]:
    """Collect no cycles: what is dropped must go by itself."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("length", [100, parsers.SHORT_CHARS * 2, 2 * MIB])
def test_an_unreadable_reply_is_not_kept(
    no_collection: None, monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    request = messages.ListWorkflows()
    sent = [Text("x" * (length))]
    watched = weakref.ref(sent[0])

    async def asked(*_: object) -> tuple[str, gateway.Target, messages.Request]:
        return sent.pop(), TARGET, request

    monkeypatch.setattr(gateway, "_try_sample", asked)
    monkeypatch.setattr(gateway, "_remembered", lambda *_: [TARGET])
    monkeypatch.setattr(gateway.loops, "get", asyncio.get_running_loop)

    async def ask() -> None:
        try:
            await gateway.aanswer(Application(pk=1, organization_id=1), request)
        except errors.ProtocolError as exc:
            assert exc.__context__ is None
        else:
            pytest.fail("it was read")

    with asyncio.Runner() as runner:
        runner.run(ask())
        # The thread that parsed it may be about to end.
        ends_at = time.monotonic() + 5
        while watched() is not None and time.monotonic() < ends_at:
            time.sleep(0.01)
        assert watched() is None


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of glibc")
def test_large_blocks_go_back_to_the_system() -> None:
    done = subprocess.run(
        [sys.executable, "-c", BLOCKS], cwd=ROOT, check=True, stdout=subprocess.PIPE
    )
    assert int(done.stdout) < 25
