"""Roll call: which executors have an open socket, asked of the servers themselves.

The database tells late: a registration may wait to be written, an instance may have
lost its database while its sockets live. So before an executor is declared dead, and
again right before an order names it, every server is asked. Whoever is connected
somewhere is alive, whatever the rows say. See docs/adr/0002.
"""

from __future__ import annotations

from collections.abc import Collection

from apps import errors
from apps.executors import bus, loops, sockets
from apps.executors.sockets import Key

TIMEOUT_S = 3.0


class Unknown(errors.ConductorError):
    """Not every living server answered, so nobody can be said to be gone."""

    def __init__(self) -> None:
        super().__init__("Not every Conductor server said who is connected to it.")


def connected(
    keys: Collection[Key], *, instances: Collection[str], quiet: Collection[str]
) -> set[Key]:
    """Return which of these executors are connected to any server; for threads.

    `instances`, those whose heartbeats are fresh, must be among those who answer. So
    must `quiet` ones, whose heartbeats stopped lately, unless they are gone: a process
    that is only frozen holds its executors' sockets open. One that has been quiet for
    longer has no say: it may be frozen for ever. See docs/adr/0007.

    Raises: Unknown.
    """
    if not keys:
        return set()
    if bus.is_local():
        return sockets.connected(keys)
    try:
        return loops.run(_ask_all(keys, instances, quiet), timeout_s=TIMEOUT_S + 2)
    except TimeoutError:
        raise Unknown from None


async def _ask_all(
    keys: Collection[Key], instances: Collection[str], quiet: Collection[str]
) -> set[Key]:
    process_bus = await bus.current()
    answers = await process_bus.call_roll(keys, timeout_s=TIMEOUT_S)
    if not set(instances) <= answers.keys():
        raise Unknown
    if await process_bus.any_listens(set(quiet) - answers.keys()):
        raise Unknown
    return set().union(*answers.values())
