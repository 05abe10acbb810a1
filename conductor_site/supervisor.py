"""Runs web, worker and beat as one process tree (services mode)."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from types import FrameType

logger = logging.getLogger(__name__)

STOP_SECS = 6.0
POLL_SECS = 0.2
PR_SET_PDEATHSIG = 1
WORKER_THREADS = "16"

_CELERY = (sys.executable, "-m", "celery", "-q", "-A", "conductor_site")
COMMANDS: dict[str, tuple[str, ...]] = {
    "web": (sys.executable, "-m", "conductor_site.server", "--role", "web"),
    # Tasks wait for executors and the database, not for the processor: threads.
    "worker": (
        *_CELERY,
        "worker",
        "--loglevel=WARNING",
        "--pool=threads",
        f"--concurrency={os.environ.get('CONDUCTOR_WORKER_THREADS', WORKER_THREADS)}",
        "--without-gossip",
        "--without-mingle",
    ),
    "beat": (
        *_CELERY,
        "beat",
        "--loglevel=WARNING",
        "--pidfile=",
    ),
}
# Where a role wants another default than the settings have.
ENVIRONMENT: dict[str, dict[str, str]] = {"worker": {"DATABASE_POOL_SIZE": "6"}}


def environment(role: str) -> dict[str, str]:
    """Return the environment of a role's process; what is set already counts."""
    return {**ENVIRONMENT.get(role, {}), **os.environ}


def _end_with_parent() -> None:
    """Have Linux end this child when its supervisor is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def supervise(commands: Mapping[str, tuple[str, ...]] = COMMANDS) -> int:
    """Run all commands until one ends or a signal comes; return the exit code.

    A child that ends, even with 0, takes the tree down: half a Conductor is worse than
    one that its own supervisor restarts.
    """
    wanted = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal wanted
        wanted = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    # Own process groups: Ctrl-C reaches the supervisor alone, which tells each child
    # once. Celery takes a second signal as an order to drop its running tasks.
    children = {
        name: subprocess.Popen(
            command,
            env=environment(name),
            process_group=0,
            preexec_fn=_end_with_parent,
        )
        for name, command in commands.items()
    }
    code = 0
    try:
        while not wanted:
            ended = {n: c for n, c in children.items() if c.poll() is not None}
            if ended:
                name, child = next(iter(ended.items()))
                code = child.returncode if child.returncode > 0 else 1
                logger.critical("%s ended with %s; stopping", name, child.returncode)
                break
            time.sleep(POLL_SECS)
    finally:
        _stop_all(children)
    return code


def _stop_all(children: dict[str, subprocess.Popen[bytes]]) -> None:
    for child in children.values():
        if child.poll() is None:
            child.terminate()
    deadline = time.monotonic() + STOP_SECS
    for name, child in children.items():
        try:
            child.wait(max(deadline - time.monotonic(), 0.01))
        except subprocess.TimeoutExpired:
            # What a killed task held is a row with a lease; the next sweep takes it up.
            logger.warning("%s is still busy; killing it", name)
            child.kill()
            child.wait()
