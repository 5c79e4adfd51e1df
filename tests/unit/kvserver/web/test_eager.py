"""Coroutines that are run up to their first wait at once."""

from __future__ import annotations

import asyncio

import pytest

from kvserver.web.eager import run_eagerly


def test_what_never_waits_is_done_at_once() -> None:
    async def main() -> None:
        done: list[int] = []
        tasks: set[asyncio.Task[None]] = set()

        async def work() -> None:
            done.append(1)

        run_eagerly(asyncio.get_running_loop(), tasks, work())
        assert done == [1] and not tasks

    asyncio.run(main())


def test_the_rest_is_a_task_until_it_is_done() -> None:
    async def main() -> None:
        gate, done = asyncio.Event(), list[int]()
        tasks: set[asyncio.Task[None]] = set()

        async def work() -> None:
            done.append(1)
            await gate.wait()
            await asyncio.sleep(0)
            done.append(2)

        run_eagerly(asyncio.get_running_loop(), tasks, work())
        [task] = tasks
        assert done == [1]
        gate.set()
        await task
        await asyncio.sleep(0)
        assert done == [1, 2] and not tasks

    asyncio.run(main())


def test_errors_of_the_first_step_are_the_caller_s_and_later_ones_the_task_s() -> None:
    async def main() -> None:
        tasks: set[asyncio.Task[None]] = set()

        async def fail(wait: bool) -> None:
            if wait:
                await asyncio.sleep(0)
            raise ValueError("on purpose")

        with pytest.raises(ValueError, match="on purpose"):
            run_eagerly(asyncio.get_running_loop(), tasks, fail(False))
        assert not tasks
        run_eagerly(asyncio.get_running_loop(), tasks, fail(True))
        with pytest.raises(ValueError, match="on purpose"):
            await next(iter(tasks))

    asyncio.run(main())


def test_cancellation_reaches_what_waits() -> None:
    async def main() -> None:
        tasks: set[asyncio.Task[None]] = set()
        seen: list[str] = []

        async def work() -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                seen.append("cancelled")
                raise

        run_eagerly(asyncio.get_running_loop(), tasks, work())
        [task] = tasks
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert seen == ["cancelled"]

    asyncio.run(main())
