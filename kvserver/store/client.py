"""The way of a request into the store: writes to the shard that owns the key, reads from the shards' maps.

A GET never leaves the process: it reads the shard's map in shared memory. A write travels over the shard's `Link`.
Lists merge the maps of all shards in key order, in short transactions. What changes nothing but is shown on `/wal`
(reads, lists, deletes of absent keys) is told to the gateways while the board says that somebody listens.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_right
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Final, overload

import zmq

from kvserver.api.listing import Walk
from kvserver.store.activity import ActivityFeed
from kvserver.store.link import Link, Pending, Portion, Single
from shards.host.board import Board
from shards.keys.eviction import record_use
from shards.keys.last_use import open_last_use_table
from shards.maps.layout import Item
from shards.maps.reader import MapReader
from shards.wire.clock import Now
from shards.wire.errors import AnswerTooLarge, KVError, OutcomeUnknown, Unavailable
from shards.wire.keys import shard_of
from shards.wire.protocol import (
    ANSWER_BYTES,
    MESSAGE_BYTES,
    MESSAGE_OPS,
    ActivityKind,
    AtomicBatch,
    Delete,
    Deleted,
    DeletePrefix,
    Done,
    Failed,
    Get,
    Incr,
    MarkPrefix,
    OfOneKey,
    Operation,
    Patch,
    Put,
    Reply,
    Results,
    Touch,
    Value,
    size_of,
)

DEADLINE_S: Final = 10.0
"""How long a shard may be silent."""
PAGE_KEYS: Final = 1000
"""Keys read in one transaction of a list, or deleted in one step of a prefix delete."""
COUNT_KEYS: Final = 5000
"""Keys counted in one transaction."""

_TICK_S = 0.02
_LOOK_UP_BYTES: Final = 1 << 20  # of values that are looked up before other tasks run
_INTERNAL: Final = Failed("internal")
_ABSENT: Final = Value(0, False)
_TOO_LARGE: Final = Failed.of(AnswerTooLarge())


def _uncounted(size: int) -> None:
    """Of whoever does not want to know how much is held."""


class Router:
    """One per worker process, made after the fork, used from one event loop. No method blocks.

    Args:
        board: the store's board.
        run_dir: where the sockets of shards and gateways are.
        loop: the worker's event loop.
    """

    def __init__(self, board: Board, run_dir: Path, loop: asyncio.AbstractEventLoop) -> None:
        self.board, self._run_dir, self._loop = board, run_dir, loop
        self._shards = board.facts.shards
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._readers = [MapReader(board, index) for index in range(self._shards)]
        self._links = [Link(self._context, board.shards[index], index, run_dir, loop) for index in range(self._shards)]
        self._activity = ActivityFeed(self._context, board, run_dir, lambda: loop.call_soon(self._activity.flush))
        self._stamps = open_last_use_table(board)
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Connect to the shards, and keep connected until `close`."""
        self._tick()

    def _tick(self) -> None:
        for link in self._links:
            link.tick()
        self._activity.refresh()
        self._timer = self._loop.call_later(_TICK_S, self._tick)

    def close(self) -> None:
        """End everything unanswered, close all sockets and maps."""
        if self._timer is not None:
            self._timer.cancel()
        for link in self._links:
            link.close()
        self._activity.close()
        self._context.destroy(linger=0)
        for reader in self._readers:
            reader.close()

    def counters(self) -> dict[str, int]:
        """Messages and operations sent to shards, and outcomes that are unknown, since the start."""
        return {
            "messages": sum(link.messages for link in self._links),
            "operations": sum(link.operations for link in self._links),
            "unknown_outcomes": sum(link.unknown for link in self._links),
        }

    # One key

    def enqueue(self, key: bytes, pending: Pending) -> None:
        """Send what the shard that owns `key` is asked. It is answered, or fails, once."""
        shards = self._shards
        self._links[shard_of(key, shards) if shards > 1 else 0].enqueue(pending)

    @overload
    async def request(self, operation: Put | Delete | Touch, deadline_s: float = DEADLINE_S) -> Done: ...

    @overload
    async def request(self, operation: Incr | Patch, deadline_s: float = DEADLINE_S) -> Value: ...

    async def request(
        self, operation: Put | Delete | Touch | Incr | Patch, deadline_s: float = DEADLINE_S
    ) -> Done | Value:
        """Do an operation, and give its answer. A delete of an absent key is shown as activity.

        Raises `KVError`: `Unavailable` if nothing was done, `OutcomeUnknown`, `InsufficientStorage`, `BadRequest`...
        """
        future: asyncio.Future[Reply] = self._loop.create_future()
        end = self.board.last_revision()
        deadline_ns = time.monotonic_ns() + int(deadline_s * 1e9)
        self.enqueue(operation.key, Single(operation, deadline_ns, _settles(future)))
        reply = await future
        assert isinstance(reply, Done | Value)
        if type(operation) is Delete and not reply.existed:
            self.absent(operation.key, end)
        return reply

    def get(self, key: bytes) -> Item | None:
        """What `key` holds now, None if it is absent or expired. Raises `Unavailable` without a map."""
        item = self._readers[shard_of(key, self._shards)].get(key, self.board.now())
        self.seen(key, item is not None)
        return item

    def seen(self, key: bytes, there: bool) -> None:
        """Note that `key` was read: what is there is not evicted soon, and who listens is told."""
        if there and self._stamps is not None:
            record_use(self._stamps, key, self.board.steady_ms())
        if self._activity.listeners:
            self._activity.add("read", key)

    def size(self, key: bytes) -> int:
        """Bytes of the value of `key`, 0 if it is absent or expired. Is not shown. Raises `Unavailable`."""
        item = self.describe(key)
        return item.size if item is not None else 0

    def describe(self, key: bytes) -> Item | None:
        """`get` without the value, which is not shown on `/wal`."""
        now = self.board.now()
        item = self._readers[shard_of(key, self._shards)].describe(key, now)
        if self._stamps is not None and item is not None:
            record_use(self._stamps, key, now.steady_ms)
        return item

    def record(self, key: bytes) -> bytes | None:
        """`MapReader.read_record` of the shard that owns `key`, not yet `seen`. Raises `Unavailable`."""
        shards = self._shards
        return self._readers[shard_of(key, shards) if shards > 1 else 0].read_record(key)

    # Many keys

    async def keys(self, prefix: bytes) -> AsyncIterator[list[bytes]]:
        """All keys that start with `prefix`, in byte order, in pages; other tasks run between them.

        Not a snapshot: a key that exists throughout is listed once, one that comes or goes meanwhile may be.
        """
        self._activity.add("list_prefix" if prefix else "list", prefix)
        pages: list[list[bytes]] = [[] for _ in self._readers]
        after: list[bytes | None] = [None] * self._shards
        unread = set(range(self._shards))
        while unread or any(pages):
            for shard in [shard for shard in unread if not pages[shard]]:
                page = self._readers[shard].keys(prefix, after[shard], PAGE_KEYS, self.board.now())
                pages[shard] = page
                if len(page) < PAGE_KEYS:
                    unread.discard(shard)
                else:
                    after[shard] = page[-1]
            # Up to the smallest last key of the shards that have more, nothing can come any more.
            bound = min((pages[shard][-1] for shard in unread), default=None)
            merged: list[bytes] = []
            for shard, page in enumerate(pages):
                count = len(page) if bound is None else bisect_right(page, bound)
                merged += page[:count]
                pages[shard] = page[count:]
            merged.sort()
            if merged:
                yield merged
            await asyncio.sleep(0)

    async def delete_prefix(self, prefix: bytes) -> AsyncIterator[list[bytes]]:
        """Delete all keys that start with `prefix` and whose value is older than this call; yields them in steps.

        First one shard logs the mark whose revision is the cut, so that the feed can show one line for the request.
        Raises `Unavailable` if a shard is down before anything was done, `OutcomeUnknown` if one is lost midway.
        """
        down = [index for index, link in enumerate(self._links) if not link.up]
        if down:
            raise Unavailable(f"shard {down[0]} is down")
        mark = await self._ask(shard_of(prefix, self._shards), MarkPrefix(prefix))
        assert isinstance(mark, Done)
        after = dict.fromkeys(range(self._shards), b"")
        while after:
            deleted, lost = await self._delete_step(prefix, mark.revision, after, list(after), PAGE_KEYS, marked=True)
            if lost is not None:
                raise OutcomeUnknown(str(lost)) from lost
            if deleted:
                yield deleted

    async def delete_range(self, prefix: bytes, cut: int, limit: int) -> AsyncGenerator[tuple[int, bool], None]:
        """Delete keys that start with `prefix` and whose value is not newer than `cut`, at most `limit`, in steps.

        Gives how many each step deleted, and whether nothing is left to do. After what is surely deleted has been
        given, raises `Unavailable` if a shard did nothing, or what else became of it.
        """
        after = dict.fromkeys(range(self._shards), b"")
        while after and limit:
            # Shards step side by side, but not beyond the limit together.
            shards = list(after) if limit >= PAGE_KEYS * len(after) else list(after)[:1]
            deleted, lost = await self._delete_step(prefix, cut, after, shards, min(limit, PAGE_KEYS), marked=False)
            limit -= len(deleted)
            yield len(deleted), not after
            if lost is not None:
                raise lost

    async def _delete_step(
        self, prefix: bytes, cut: int, after: dict[int, bytes], shards: list[int], limit: int, *, marked: bool
    ) -> tuple[list[bytes], KVError | None]:
        """Have `shards` go on from their places in `after`, which is brought up to date; a shard that has no more goes
        from it. Gives the deleted keys, and what became of a shard that was lost."""
        steps = [self._ask(shard, DeletePrefix(prefix, after[shard], cut, limit, marked)) for shard in shards]
        replies = await asyncio.gather(*steps, return_exceptions=True)
        deleted: list[bytes] = []
        lost: KVError | None = None
        for shard, reply in zip(shards, replies, strict=True):
            if isinstance(reply, Deleted):
                deleted += reply.keys
                if reply.next is None:
                    del after[shard]
                else:
                    after[shard] = reply.next
                continue
            if not isinstance(reply, KVError):
                raise reply if isinstance(reply, BaseException) else TypeError(f"{reply!r} for a prefix delete")
            if lost is None or isinstance(lost, Unavailable):
                lost = type(reply)(f"shard {shard} was lost midway: {reply}")
        return deleted, lost

    async def each(
        self, operations: Sequence[OfOneKey], silent: set[int] | None = None, held: Callable[[int], None] = _uncounted
    ) -> list[Reply]:
        """Do the operations, those of one key in their order, and give their replies in theirs; an error is a
        `Failed`. Reads, and deletes of absent keys, are shown as activity.

        `silent`: shards that are asked nothing, and to which those are added that did not answer: who does a request
        in parts waits for each of them once. `held` is told how many bytes of values wait for their answer, whenever
        other tasks are about to run; what it raises, this raises, if nothing was sent yet.

        Gets are answered from the maps, but for those of keys that are changed before them. A shard is given one
        message after the other, each when the one before is answered: so their order is that of the operations.
        """
        replies: list[Reply] = [_INTERNAL] * len(operations)
        end = self.board.last_revision()
        asked: Sequence[int] = range(len(operations))
        if Get in map(type, operations):
            asked = await self._answer_gets(operations, replies, held)
        lines: dict[int, deque[tuple[Sequence[int], int]]] = defaultdict(deque)
        for shard, portion, size in self._portions(operations, asked):
            lines[shard].append((portion, size))
        if lines:
            finished: asyncio.Future[None] = self._loop.create_future()
            _Asking(self._links, operations, replies, lines, set() if silent is None else silent, finished).start()
            await finished
        self._show(operations, replies, end)
        return replies

    async def _answer_gets(
        self, operations: Sequence[OfOneKey], replies: list[Reply], held: Callable[[int], None]
    ) -> list[int]:
        """Fill in the replies of gets that the maps can answer; the indices of what has to be asked. Other tasks run
        where values are large."""
        asked: list[int] = []
        changed: set[bytes] = set()
        now = self.board.now()
        room = ANSWER_BYTES
        pause_at = room - _LOOK_UP_BYTES
        for index, operation in enumerate(operations):
            key = operation.key
            if type(operation) is not Get:
                changed.add(key)
                asked.append(index)
            elif key in changed:
                asked.append(index)
            else:
                reply = self._look_up(key, now) if room >= 0 else _TOO_LARGE
                if type(reply) is Value:
                    room -= len(reply.value)
                replies[index] = reply if room >= 0 else _TOO_LARGE
                if room < pause_at:
                    held(pause_at + _LOOK_UP_BYTES - room)
                    pause_at = room - _LOOK_UP_BYTES
                    await asyncio.sleep(0)
                    now = self.board.now()
        return asked

    def _portions(
        self, operations: Sequence[OfOneKey], asked: Sequence[int]
    ) -> Iterator[tuple[int, Sequence[int], int]]:
        """What fits into one message each: shard, indices (those of `asked`, in order), bytes."""
        of_shards: Mapping[int, Sequence[int]] = {0: asked}
        if self._shards > 1:
            of_shards = lists = defaultdict[int, list[int]](list)
            for index in asked:
                lists[shard_of(operations[index].key, self._shards)].append(index)
        for shard, indices in of_shards.items():
            sizes = [size_of(operations[index]) for index in indices]
            begin = size = 0
            for at, more in enumerate(sizes):
                if at > begin and (at - begin >= MESSAGE_OPS or size + more > MESSAGE_BYTES):
                    yield shard, indices[begin:at], size
                    begin, size = at, 0
                size += more
            if begin < len(indices):
                yield shard, indices[begin:], size

    def _look_up(self, key: bytes, now: Now) -> Reply:
        """`get` as a shard would reply; it is not shown."""
        try:
            item = self._readers[shard_of(key, self._shards)].get(key, now)
        except Unavailable as error:
            return Failed.of(error)
        if item is None:
            return _ABSENT
        if self._stamps is not None:
            record_use(self._stamps, key, now.steady_ms)
        return Value(item.revision, True, item.value, item.content_type, item.expires_ms)

    async def atomic(self, operations: list[OfOneKey]) -> Results:
        """Do all of them, whose keys have one slot, or nothing. Raises `KVError`."""
        end = self.board.last_revision()
        reply = await self._ask(shard_of(operations[0].key, self._shards), AtomicBatch(operations))
        assert isinstance(reply, Results)
        if reply.failed is None:
            self._show(operations, reply.replies, end)
        return reply

    def _show(self, operations: Sequence[OfOneKey], replies: Sequence[Reply], end: int) -> None:
        """What changed nothing, as activity. `end`: the history's end before they were sent."""
        if self._activity.listeners:
            for operation, reply in zip(operations, replies, strict=True):
                if type(operation) is Get and isinstance(reply, Value):
                    self._activity.add("read", operation.key)
                elif type(operation) is Delete and isinstance(reply, Done) and not reply.existed:
                    self.absent(operation.key, end)

    def walk(self, walk: Walk, *, values: bool = False) -> None:
        """Let `walk` go on, not for long. Raises `Unavailable`."""
        now = self.board.now()
        with ExitStack() as stack:
            cursors = [stack.enter_context(reader.cursor(now, values=values)) for reader in self._readers]
            walk.advance(cursors, PAGE_KEYS)

    async def count(
        self, prefix: bytes, after: bytes | None = None, before: bytes | None = None, cut: int | None = None
    ) -> AsyncGenerator[int, None]:
        """How many keys there are that start with `prefix` and stand between `after` and `before` (and, with a cut,
        hold a value that is not newer), in portions to be added; other tasks run between them. Raises `Unavailable`."""
        for reader in self._readers:
            place = after
            while True:
                count, place = reader.count_keys(prefix, place, before, cut, COUNT_KEYS, self.board.now())
                yield count
                await asyncio.sleep(0)
                if place is None:
                    break

    def absent(self, key: bytes, end: int) -> None:
        """Show on `/wal` that a delete found nothing. `end`: the history's end before it was sent.

        Where exactly it was decided, nobody knows here. Behind that end, whoever put the key in between has deleted it
        again as well, so the line cannot take away what is there; behind a later put it could.
        """
        self._activity.add("delete", key, end)

    def activity(self, kind: ActivityKind, subject: bytes) -> None:
        """Show on `/wal` something that changed nothing."""
        self._activity.add(kind, subject)

    def _ask(self, shard: int, operation: Operation) -> Awaitable[Reply]:
        future: asyncio.Future[Reply] = self._loop.create_future()
        deadline_ns = time.monotonic_ns() + int(DEADLINE_S * 1e9)
        self._links[shard].enqueue(Single(operation, deadline_ns, _settles(future)))
        return future


class _Asking:
    """Portions on their way to the shards, to each of them one after the other. Nothing here refers to itself, so the
    values of `replies` take no memory once they are told: the collector of cycles comes seldom.

    Args:
        lines: of each shard that is asked, indices of operations that travel together, and their bytes.
        silent: shards that are asked nothing; those that do not answer are added.
        finished: is done when all replies are there.
    """

    def __init__(
        self,
        links: Sequence[Link],
        operations: Sequence[OfOneKey],
        replies: list[Reply],
        lines: Mapping[int, deque[tuple[Sequence[int], int]]],
        silent: set[int],
        finished: asyncio.Future[None],
    ) -> None:
        self._links, self._operations, self._replies = links, operations, replies
        self._lines, self._silent, self._finished = lines, silent, finished
        self._left = len(lines)

    def start(self) -> None:
        """Send the first portion of each shard."""
        for shard in list(self._lines):
            self._send_next(shard)

    def _send_next(self, shard: int) -> None:
        line = self._lines[shard]
        if not line:
            self._left -= 1
            if not self._left and not self._finished.done():
                self._finished.set_result(None)
            return
        portion, size = line.popleft()
        deadline_ns = time.monotonic_ns() + int(DEADLINE_S * 1e9)
        operations = [self._operations[at] for at in portion]
        pending = Portion(operations, size, deadline_ns, partial(self._deliver, shard, portion))
        if shard in self._silent:
            pending.fail(Unavailable(f"shard {shard} did not answer before"))
        else:
            self._links[shard].enqueue(pending)

    def _deliver(self, shard: int, portion: Sequence[int], answers: Sequence[Reply] | KVError) -> None:
        if isinstance(answers, KVError):
            if isinstance(answers, Unavailable | OutcomeUnknown):
                self._silent.add(shard)
            answers = [Failed.of(answers)] * len(portion)
        for index, reply in zip(portion, answers, strict=True):
            self._replies[index] = reply
        self._send_next(shard)


def _settles(future: asyncio.Future[Reply]) -> Callable[[Reply | KVError], None]:
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
