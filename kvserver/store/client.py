"""The client of the store's shards: writes go to the shard that owns the key, reads to the shards' maps.

A GET never leaves the process: it reads the shard's map in shared memory. A write travels over the shard's `Link`.
Lists merge the maps of all shards in key order, in short transactions. Requests that change nothing but are shown on
`/wal` (reads, lists, deletes of absent keys) are reported to the gateways while the board shows a listener.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Final, overload

import zmq

from kvserver.store import deletes
from kvserver.store.activity import ActivityFeed
from kvserver.store.batches import BatchRun, ignore_bytes
from kvserver.store.links import ShardLinks
from kvserver.store.maps import StoreMaps
from kvserver.store.pending import Pending
from kvserver.store.reading import ReadingRule
from shards.host.board import Board
from shards.host.process import policy_of_helpers
from shards.maps.reader import Item
from shards.wire.errors import IdempotencyMismatch
from shards.wire.keys import shard_of
from shards.wire.protocol import (
    ActivityKind,
    AtomicBatch,
    Delete,
    Done,
    Get,
    Incr,
    OfOneKey,
    Once,
    Patch,
    Put,
    Replayed,
    Reply,
    Results,
    Touch,
    Value,
    bare,
)

_TICK_S: Final = 0.02


class StoreClient:
    """One per worker process, made after the fork, used from one event loop. No method blocks.

    Args:
        board: the store's board.
        run_dir: where the sockets of shards and gateways are.
        loop: the worker's event loop.

    Attributes:
        links: the way to the shards.
        maps: the way to what they hold. Reads of `maps` are not reported as activity.
        reading: when what was read may be shown; None: at once, as there is no cluster.
    """

    def __init__(self, board: Board, run_dir: Path, loop: asyncio.AbstractEventLoop) -> None:
        self.board, self._loop = board, loop
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._context.set(zmq.THREAD_SCHED_POLICY, policy_of_helpers())
        self.maps = StoreMaps(board)
        self.reading = ReadingRule(board, loop) if board.facts.node else None
        self.links = ShardLinks(self._context, board, run_dir, loop)
        self._activity = ActivityFeed(self._context, board, run_dir, lambda: loop.call_soon(self._activity.flush))
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Connect to the shards, and stay connected until `close`."""
        self._tick()

    def _tick(self) -> None:
        self.links.tick()
        self._activity.refresh()
        self._timer = self._loop.call_later(_TICK_S, self._tick)

    def close(self) -> None:
        """End everything unanswered, and close all sockets and maps."""
        if self._timer is not None:
            self._timer.cancel()
        self.links.close()
        self._activity.close()
        self._context.destroy(linger=0)
        self.maps.close()

    # One key

    def enqueue(self, key: bytes, pending: Pending) -> None:
        """Send `pending` to the shard that owns `key`. It is answered, or fails, once. Nothing is reported."""
        self.links.of_key(key).enqueue(pending)

    @overload
    async def request(self, operation: Put | Delete | Touch) -> Done: ...

    @overload
    async def request(self, operation: Incr | Patch) -> Value: ...

    async def request(self, operation: Put | Delete | Touch | Incr | Patch) -> Done | Value:
        """Execute an operation, and return its reply. Reports a delete of an absent key.

        Raises `KVError`: `Unavailable` if nothing was done, `OutcomeUnknown`, `InsufficientStorage`, `BadRequest`...
        """
        end = self.board.last_revision()
        reply = await self.links.ask_shard(shard_of(operation.key, self.links.count), operation)
        assert isinstance(reply, Done | Value)
        if type(operation) is Delete and not reply.existed:
            self.report_missed_delete(operation.key, end)
        return reply

    async def request_once(self, once: Once) -> Done | Value | Results | Replayed:
        """Execute an operation, or an atomic batch, unless it was done before, and return its reply.

        Reports what changed nothing. Raises what `request` does, and `IdempotencyMismatch`.
        """
        if self.maps.is_used_elsewhere(once):
            raise IdempotencyMismatch
        end = self.board.last_revision()
        reply = await self.links.ask_shard(shard_of(once.key, self.links.count), once)
        assert isinstance(reply, Done | Value | Results | Replayed)
        operation = once.operation
        if isinstance(operation, AtomicBatch):
            if isinstance(reply, Results) and reply.failed is None:
                self._report_all(operation.operations, reply.replies, end)
        elif isinstance(reply, Done) and type(operation) is Delete and not reply.existed:
            self.report_missed_delete(operation.key, end)
        return reply

    def get(self, key: bytes) -> Item | None:
        """Return what `key` holds now, None if it is absent or expired. Reports the read. Raises `Unavailable`."""
        item = self.maps.get(key)
        self.record_read(key, item is not None)
        return item

    def describe(self, key: bytes) -> Item | None:
        """Return what `get` does, without the value. Reports nothing. Raises `Unavailable`."""
        return self.maps.describe(key)

    def look_up(self, gets: Sequence[OfOneKey], most_bytes: int) -> list[Reply] | None:
        """Return what the shards would reply to `gets`, as `execute` does; None, with nothing reported, if their values
        have more than `most_bytes`, or may not be shown yet."""
        now, left = self.board.now(), most_bytes
        replies: list[Reply] = []
        for get in gets:
            assert isinstance(get, Get)
            reply = self.maps.look_up(get.key, now, get.condition)
            if type(reply) is Value:
                left -= len(reply.value)
            if left < 0:
                return None
            replies.append(reply)
        if self.reading is not None and not self.reading.may_show():
            return None
        self._report_all(gets, replies, 0)
        return replies

    def record_read(self, key: bytes, there: bool) -> None:
        """Record that `key` was read from `maps`: protect it from eviction if it is `there`, and report the read."""
        if there and self.maps.records_uses:
            self.maps.record_use(key)
        if self._activity.has_listeners:
            self._activity.add("read", key)

    async def settle(self, item: Item | None) -> None:
        """Wait until `item`, as it was read just now, may be shown. Raises `NotCurrent`."""
        if self.reading is not None:
            await self.reading.settle(0 if item is None else item.revision)

    async def settle_all(self) -> None:
        """Wait until a list, or several keys, as they were read just now, may be shown. Raises `NotCurrent`."""
        if self.reading is not None:
            await self.reading.settle()

    # Many keys

    def list_keys(self, prefix: bytes) -> AsyncIterator[list[bytes]]:
        """Yield all keys that start with `prefix`, as `StoreMaps.list_keys` does, and report the list."""
        self.report_activity("list_prefix" if prefix else "list", prefix)
        pages = self.maps.list_keys(prefix)
        return pages if self.reading is None else self._settle_pages(pages)

    async def _settle_pages(self, pages: AsyncIterator[list[bytes]]) -> AsyncIterator[list[bytes]]:
        """Yield each of `pages` when it may be shown. Raises `NotCurrent`."""
        async for page in pages:
            await self.settle_all()
            yield page
        await self.settle_all()

    def delete_prefix(self, prefix: bytes) -> AsyncIterator[list[bytes]]:
        """Delete all keys that start with `prefix`, and yield them, as `deletes.delete_prefix` does."""
        return deletes.delete_prefix(self.links, prefix)

    def delete_range(self, prefix: bytes, cut: int, limit: int) -> AsyncGenerator[tuple[int, bool], None]:
        """Delete keys that start with `prefix` up to a cut and a limit, as `deletes.delete_range` does."""
        return deletes.delete_range(self.links, prefix, cut, limit)

    async def execute(
        self,
        operations: Sequence[OfOneKey | Once],
        unresponsive: set[int] | None = None,
        on_bytes: Callable[[int], None] = ignore_bytes,
    ) -> list[Reply]:
        """Execute the operations, each on its own, and return their replies in the same order; an error is a `Failed`.

        Reports reads, and deletes of absent keys. See `BatchRun` for `unresponsive`, `on_bytes` and what it raises.
        """
        end = self.board.last_revision()
        run = BatchRun(self.board, self.links, self.maps, operations, unresponsive, on_bytes)
        replies = await run.execute()
        if self.reading is not None and Get in map(type, operations):
            await self.reading.settle()
        self._report_all(operations, replies, end)
        return replies

    def execute_changes(self, operations: Sequence[OfOneKey], deliver: Callable[[list[Reply]], None]) -> None:
        """Do what `execute` does with at least one operation, none of them a get, and call `deliver` with the
        replies."""
        end = self.board.last_revision()

        def report(replies: list[Reply]) -> None:
            self._report_all(operations, replies, end)
            deliver(replies)

        BatchRun(self.board, self.links, self.maps, operations).start(report)

    async def execute_atomic(self, operations: list[OfOneKey]) -> Results:
        """Execute all of the operations, whose keys have one slot, or none. Raises `KVError`."""
        end = self.board.last_revision()
        reply = await self.links.ask_shard(shard_of(operations[0].key, self.links.count), AtomicBatch(operations))
        assert isinstance(reply, Results)
        if reply.failed is None:
            self._report_all(operations, reply.replies, end)
        return reply

    # Activity

    def report_activity(self, kind: ActivityKind, subject: bytes) -> None:
        """Report to `/wal` a request that changed nothing."""
        self._activity.add(kind, subject)

    def report_missed_delete(self, key: bytes, end: int) -> None:
        """Report to `/wal` a delete of an absent key. `end`: the history's end before it was sent.

        Its exact place in the history is not known here. A put of the key before that end was followed by a delete
        before that end, so the line cannot remove a live key from a reader's copy; placed after a later put it could.
        """
        self._activity.add("delete", key, end)

    def _report_all(self, operations: Sequence[OfOneKey | Once], replies: Sequence[Reply], end: int) -> None:
        """Report what changed nothing of a batch. `end`: the history's end before it was sent."""
        if self._activity.has_listeners:
            for operation, reply in zip(operations, replies, strict=True):
                if type(operation) is Get and isinstance(reply, Value):
                    self._activity.add("read", operation.key)
                elif type(bare(operation)) is Delete and isinstance(reply, Done) and not reply.existed:
                    self.report_missed_delete(operation.key, end)
