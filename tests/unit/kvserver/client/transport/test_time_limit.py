"""A limit of time, of this Python's and of the one for Python 3.10: no cancellation is lost in it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from kvserver.client.transport.time_limit import TaskLimit, time_limit

BOTH = pytest.mark.parametrize("limit", [time_limit, TaskLimit])


async def value_within(limit: Any, seconds: float | None, future: asyncio.Future[str]) -> str:
    async with limit(seconds):
        return await future


@BOTH
@pytest.mark.parametrize("seconds", [0.0, -1.0, 0.01])
def test_it_ends_in_time(limit: Any, seconds: float) -> None:
    async def main() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await value_within(limit, seconds, asyncio.get_running_loop().create_future())
        await asyncio.sleep(0)  # nothing is cancelled afterwards

    asyncio.run(main())


@BOTH
@pytest.mark.parametrize("seconds", [None, 60.0])
def test_a_result_is_returned(limit: Any, seconds: float | None) -> None:
    async def main() -> None:
        future = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(future.set_result, "found")
        assert await value_within(limit, seconds, future) == "found"

    asyncio.run(main())


@BOTH
def test_a_cancellation_beside_a_result_is_kept(limit: Any) -> None:
    async def main() -> None:
        future = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(value_within(limit, 60, future))
        await asyncio.sleep(0)
        future.set_result("found")
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()

    asyncio.run(main())
