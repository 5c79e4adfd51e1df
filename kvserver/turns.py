"""Long work in steps, between which the other requests of a worker get their turn.

Work is a generator that yields after each step of well under a millisecond, and returns its result. A thread would not
do: it keeps the interpreter for 5 ms at a time, and for a call in C as long as the call takes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator, Iterator
from time import perf_counter
from typing import Final, TypeVar

Result = TypeVar("Result")
Steps = Generator[None, None, Result]

SLICE_S: Final = 0.002
"""Seconds of steps between two turns of the event loop, shared out among all works in progress."""

_in_progress = 0


def in_one_go(steps: Steps[Result]) -> Result:
    """The result of `steps`, however long that takes. Raises what they raise."""
    while True:
        try:
            next(steps)
        except StopIteration as done:
            result: Result = done.value
            return result


async def in_turns(steps: Steps[Result]) -> Result:
    """The result of `steps`; others get their turn meanwhile. Raises what they raise."""
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


async def joined_in_turns(pieces: Iterator[bytes], size: int) -> AsyncGenerator[bytes, None]:
    """What `pieces` are together, in parts of about `size` bytes, none of them empty; others get their turn after each
    part, and while it is made. Raises what making the pieces raises."""
    global _in_progress
    over = False
    while not over:
        part: list[bytes] = []
        length = 0
        _in_progress += 1
        try:
            while not over and length < size:
                until = perf_counter() + SLICE_S / _in_progress
                while True:
                    piece = next(pieces, None)
                    over = piece is None
                    if piece:
                        part.append(piece)
                        length += len(piece)
                    if over or length >= size or perf_counter() >= until:
                        break
                await asyncio.sleep(0)
        finally:
            _in_progress -= 1
        if part:
            yield b"".join(part)
