"""Long work between the other requests of a worker: the steps of all works in progress share the event loop's time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from time import perf_counter
from typing import Final

from kvserver.api.scan.steps import Result, Steps

SLICE_S: Final = 0.002
"""Seconds of steps between two turns of the event loop, shared out among all works in progress."""

_in_progress = 0


async def run_in_turns(steps: Steps[Result]) -> Result:
    """Run `steps` to their end, other tasks in between, and return their result. Raises what they raise."""
    global _in_progress
    _in_progress += 1
    try:
        while True:
            until = perf_counter() + SLICE_S / _in_progress
            try:
                next(steps)
                while perf_counter() < until:
                    next(steps)
            except StopIteration as done:
                result: Result = done.value
                return result
            await asyncio.sleep(0)
    finally:
        _in_progress -= 1
        steps.close()


async def join_in_turns(pieces: Iterator[bytes], size: int) -> AsyncGenerator[bytes, None]:
    """Join `pieces` to parts of about `size` bytes, none of them empty.

    Other tasks run after each part, and while it is made. Raises what making the pieces raises.
    """
    is_over = False
    while not is_over:
        part, is_over = await run_in_turns(_gather_part(pieces, size))
        await asyncio.sleep(0)
        if part:
            yield part


def _gather_part(pieces: Iterator[bytes], size: int) -> Steps[tuple[bytes, bool]]:
    """Join pieces up to about `size` bytes, one a step; return them, and whether there are no more."""
    part: list[bytes] = []
    length = 0
    for piece in pieces:
        part.append(piece)
        length += len(piece)
        if length >= size:
            return b"".join(part), False
        yield
    return b"".join(part), True
