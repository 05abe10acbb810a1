"""The scheduler of Celery's beat, which stops talking when nobody listens."""

from __future__ import annotations

import logging
from typing import Any

from celery.beat import Scheduler
from kombu.exceptions import ChannelError

logger = logging.getLogger(__name__)

# Messages that expire stay in Redis until a worker discards them.
BACKLOG_LIMIT = 100


class BoundedScheduler(Scheduler):
    """Sends nothing while so much waits already that no worker can be running.

    A tick says only that it is time; losing one loses nothing.
    """

    _is_silent = False

    def apply_async(self, entry: Any, *args: Any, **kwargs: Any) -> Any:
        waiting = self.waiting()
        if waiting >= BACKLOG_LIMIT:
            if not self._is_silent:
                logger.error("no worker takes any task", extra={"waiting": waiting})
            self._is_silent = True
            return None
        self._is_silent = False
        return super().apply_async(entry, *args, **kwargs)

    def waiting(self) -> int:
        """Return how many messages wait for a worker."""
        queue = self.app.conf.task_default_queue
        channel: Any = self.connection.default_channel
        try:
            declared = channel.queue_declare(queue, passive=True)
        except ChannelError:  # an empty queue does not exist
            return 0
        return int(declared.message_count)
