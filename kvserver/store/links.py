"""The links of one worker to all shards: which shard a key belongs to, and one operation as a future."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import zmq

from kvserver.store.link import Link
from kvserver.store.pending import Pending, Single
from shards.host.board import Board
from shards.wire.errors import KVError
from shards.wire.keys import shard_of
from shards.wire.protocol import Failed, Operation, Reply

DEADLINE_S: Final = 10.0
"""Seconds within which a shard has to begin with a request."""


def deadline_from_now() -> int:
    """Return the deadline of a request that is sent now, in nanoseconds of CLOCK_MONOTONIC."""
    return time.monotonic_ns() + int(DEADLINE_S * 1e9)


class ShardLinks:
    """One per worker. No method blocks.

    Attributes:
        count: number of shards.
    """

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], board: Board, run_dir: Path, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._loop, self.count = loop, board.facts.shards
        self._links = [Link(context, board.shards[index], index, run_dir, loop) for index in range(self.count)]

    def of_shard(self, shard: int) -> Link:
        """Return the link to a shard, by its number."""
        return self._links[shard]

    def of_key(self, key: bytes) -> Link:
        """Return the link to the shard that owns `key`."""
        return self._links[shard_of(key, self.count) if self.count > 1 else 0]

    def find_disconnected(self) -> int | None:
        """Return the first shard that is not connected; None if all are."""
        return next((index for index, link in enumerate(self._links) if not link.is_up), None)

    def enqueue(self, shard: int, pending: Pending) -> None:
        """Send `pending` to a shard. It is answered, or fails, once."""
        self._links[shard].enqueue(pending)

    def ask_shard(self, shard: int, operation: Operation) -> asyncio.Future[Reply]:
        """Send one operation to a shard; the future holds its reply, or the `KVError` that it failed with."""
        future: asyncio.Future[Reply] = self._loop.create_future()
        self._links[shard].enqueue(Single(operation, deadline_from_now(), _settle_future(future)))
        return future

    def tick(self) -> None:
        """Reconnect, and end what is late. Called every few milliseconds."""
        for link in self._links:
            link.tick()

    def close(self) -> None:
        """End everything unanswered, and close all connections."""
        for link in self._links:
            link.close()

    def read_counters(self) -> dict[str, int]:
        """Return the messages and operations sent, and the outcomes that are unknown, since the start."""
        counters = [link.counters for link in self._links]
        return {
            "messages": sum(each.messages for each in counters),
            "operations": sum(each.operations for each in counters),
            "unknown_outcomes": sum(each.unknown for each in counters),
        }


def _settle_future(future: asyncio.Future[Reply]) -> Callable[[Reply | KVError], None]:
    def deliver(answer: Reply | KVError) -> None:
        if future.done():  # its caller was cancelled
            return
        if isinstance(answer, KVError):
            future.set_exception(answer)
        elif isinstance(answer, Failed):
            future.set_exception(answer.error())
        else:
            future.set_result(answer)

    return deliver
