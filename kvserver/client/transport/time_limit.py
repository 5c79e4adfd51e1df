"""A limit of time for what is awaited: `async with time_limit(seconds)`, which raises `asyncio.TimeoutError`.

Not `asyncio.wait_for`: before Python 3.12 that swallows a cancellation that comes together with a result.
"""

from __future__ import annotations

import asyncio
import sys
from types import TracebackType


class TaskLimit:
    """What Python 3.10 lacks of `asyncio.timeout`: cancels the task that entered it when it is time."""

    def __init__(self, seconds: float | None) -> None:
        """Limit to `seconds`; None for no limit."""
        self._seconds = seconds
        self._timer: asyncio.TimerHandle | None = None
        self._expired = False

    async def __aenter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        if self._seconds is not None:
            self._timer = asyncio.get_running_loop().call_later(max(0.0, self._seconds), self._expire, task)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._expired and kind is asyncio.CancelledError:
            raise asyncio.TimeoutError from None

    def _expire(self, task: asyncio.Task[object]) -> None:
        self._expired = True
        task.cancel()


if sys.version_info >= (3, 11):
    from asyncio import timeout as time_limit
else:
    time_limit = TaskLimit

__all__ = ["TaskLimit", "time_limit"]
