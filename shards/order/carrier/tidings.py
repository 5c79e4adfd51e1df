"""What machines tell each other beside the order, and whether another one has the name of this one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from nats.aio.msg import Msg

from shards.order import link, stream
from shards.order.carrier.engine import Engine
from shards.order.carrier.frames import send_frame
from shards.order.order import OrderError

NAMESAKE_S: Final = 1.0
"""For which to listen whether another process speaks under this machine's name."""
_NAMESAKE_SPAN_S: Final = 0.4  # between the first and the last that was heard: what a dead one had said comes at once
_MOST_UNHEARD: Final = 8 << 20
"""Bytes of tidings that the shard has not read, above which they are dropped: newer ones will come."""


class Namesake:
    """Whether another process speaks under the name of this machine. What this one says it does not hear itself."""

    def __init__(self, engine: Engine, node: str) -> None:
        self._engine, self._node = engine, node
        self._first = self._last = float("-inf")  # when it was heard, of a time without a pause

    async def listen(self) -> None:
        """Begin to listen."""
        await self._engine.client.subscribe(f"{stream.TELL}.{self._node}", cb=self._note)

    async def check(self) -> None:
        """Wait until it would have been heard. Raises `OrderError` if it was for a while, and goes on.

        To be called when the order is there: who listens at an engine that has lost the others hears nobody.
        """
        time = asyncio.get_running_loop().time
        await asyncio.sleep(NAMESAKE_S)
        last = self._last
        if last < time() - NAMESAKE_S or last - self._first < _NAMESAKE_SPAN_S:
            return
        await asyncio.sleep(NAMESAKE_S)
        if self._last > last:
            raise OrderError(
                f"another machine works under the name {self._node!r}: give this one its own --node, or stop that one "
                "first"
            )

    async def _note(self, _: Msg) -> None:
        now = asyncio.get_running_loop().time()
        if now > self._last + NAMESAKE_S:
            self._first = now
        self._last = now


class Carry:
    """The tidings of one process of the shard: from its connection to the end of that."""

    def __init__(self, engine: Engine, node: str, writer: asyncio.StreamWriter) -> None:
        self._engine, self._node, self._writer = engine, node, writer

    async def run(self, frames: AsyncIterator[link.ToChild]) -> None:
        """Serve the shard until it is gone."""
        async with self._engine.subscribed(
            {f"{stream.TELL}.>": self._hear, f"{stream.ASK}.{self._node}.*": self._hear}
        ):
            async for frame in frames:
                if isinstance(frame, link.Tell):
                    await self._engine.publish(f"{stream.TELL}.{self._node}", frame.payload)
                elif isinstance(frame, link.Ask):
                    await self._engine.publish(f"{stream.ASK}.{frame.node}.{self._node}", frame.payload)

    async def _hear(self, message: Msg) -> None:
        node = message.subject.rpartition(".")[2]
        if node != self._node and self._writer.transport.get_write_buffer_size() < _MOST_UNHEARD:
            send_frame(self._writer, link.Told(node, message.data))
