"""What the shard sends and is sent over a Unix socket, as `link` has it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from shards.order import link


async def read_frames(reader: asyncio.StreamReader) -> AsyncIterator[link.ToChild]:
    """Yield what the shard sends."""
    splitter = link.Splitter()
    while data := await reader.read(1 << 20):
        for body in splitter.feed(data):
            yield link.decode_to_child(body)


async def prepend_frame(first: link.ToChild, frames: AsyncIterator[link.ToChild]) -> AsyncIterator[link.ToChild]:
    """Yield `first`, and then `frames`."""
    yield first
    async for frame in frames:
        yield frame


def send_frame(writer: asyncio.StreamWriter, frame: link.FromChild) -> None:
    """Send a frame to the shard, unless it is gone. What it does not read at once waits in memory."""
    if not writer.is_closing():
        writer.write(link.encode_frame(frame))
