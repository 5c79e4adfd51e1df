"""Runs a coroutine up to its first wait at once: a request that never waits needs no turn of the event loop."""

from __future__ import annotations

import asyncio
import sys
import types
from collections.abc import Coroutine, Generator
from typing import Any

if sys.version_info >= (3, 12):

    def run_eagerly(
        loop: asyncio.AbstractEventLoop, tasks: set[asyncio.Task[None]], work: Coroutine[Any, None, None]
    ) -> None:
        """Run `work` up to its first wait; add a task of the rest, if any, to `tasks` until it is done.

        Raises what `work` raises before its first wait.
        """
        task = asyncio.Task(work, loop=loop, eager_start=True)
        if task.done():
            task.result()
        else:
            _keep_task(tasks, task)

else:

    def run_eagerly(
        loop: asyncio.AbstractEventLoop, tasks: set[asyncio.Task[None]], work: Coroutine[Any, None, None]
    ) -> None:
        """Do what an eager task of Python 3.12 does. Code before the first wait has no `asyncio.current_task`."""
        try:
            awaited = work.send(None)
        except StopIteration:
            return
        _keep_task(tasks, loop.create_task(_finish_work(work, awaited)))

    async def _finish_work(work: Coroutine[Any, None, None], awaited: Any) -> None:
        """Run the rest of `work`, which waits for `awaited`."""
        await _resume_work(work, awaited)

    @types.coroutine
    def _resume_work(work: Coroutine[Any, None, None], awaited: Any) -> Generator[Any, None, None]:
        """Pass `awaited`, and whatever `work` waits for next, to the event loop, and its results back to `work`."""
        while True:
            try:
                yield awaited
            except BaseException as error:
                resume, argument = work.throw, error
            else:
                resume, argument = work.send, None  # type: ignore[assignment]
            try:
                awaited = resume(argument)
            except StopIteration:
                return


def _keep_task(tasks: set[asyncio.Task[None]], task: asyncio.Task[None]) -> None:
    """Hold a reference to `task` until it is done: the event loop has none."""
    tasks.add(task)
    task.add_done_callback(tasks.discard)
