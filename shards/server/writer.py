"""How a shard writes: a group of operations is decided, logged, flushed, applied, in this order.

Nothing is visible in the map, answered or published before it is durable: `Writer.write` returns only then. A record
that could not be appended has left nothing, and everything in its group is refused, also what needed no record:
its answer may rest on what the group had decided.
"""

from __future__ import annotations

import contextlib
import logging
import random
import time
from collections.abc import Sequence
from itertools import chain, islice
from typing import Protocol

from shards.host.board import Board, ShardRow
from shards.host.logs import TRACE
from shards.keys.entries import Room
from shards.keys.eviction import Evictor
from shards.keys.group import FULL_BYTES, Group
from shards.keys.keyspace import Keyspace
from shards.keys.last_use import open_stamps
from shards.log.appender import LogAppender
from shards.log.files import GivenUp, LogBroken, LogError, LogFull
from shards.log.records import HEADER, Record
from shards.maps.layout import MapFull
from shards.maps.owner import MapOwner
from shards.wire.clock import BEGINNING, Now
from shards.wire.errors import BadRequest, InsufficientStorage, KVError, Unavailable
from shards.wire.keys import check_utf8
from shards.wire.protocol import (
    PUBLISH_BYTES,
    DeleteEvent,
    DeletePrefix,
    Event,
    Failed,
    Operation,
    PutEvent,
    Reply,
    TouchEvent,
    encode_events,
)

EXPIRE_KEYS = 1024
"""Most expiries in one group."""
PREFIX_KEYS = 1000
"""Most keys that one step of a prefix delete looks at: some 10 ms."""
EVICT_GROUPS = 8
"""Most further groups in one turn, each with `eviction.EVICT_KEYS` keys, to make room for what is written."""
MAP_RESERVE = 8 << 20
"""Bytes of the map's file system that only deletes and expiries may take."""

_RETRY_S = 0.1  # between attempts to expire what could not be logged
_MEASURE_S = 0.05  # at most this often the free space is looked up because it seems to run out
_PAGES = 3  # bytes of the map that a byte of a change may take: whole pages, and copies of those above them

log = logging.getLogger("shards")


class Clock(Protocol):
    """Where the time comes from: the board, but for tests."""

    def now(self) -> Now:
        """This moment."""


class Writer:
    """The one that changes a shard's dict and map.

    Attributes:
        announcements: what is to be published since they were taken last.
        figures: what the board shows of this shard; see `ShardRow.FIGURES`.
    """

    def __init__(self, board: Board, shard: int, log: LogAppender, map: MapOwner, clock: Clock | None = None) -> None:
        self._log, self._map, self._clock = log, map, clock or board
        self._words, self._row = board.log, board.shards[shard]
        self._flushed_each = board.facts.sync == "always"
        self._others = [row for index, row in enumerate(board.shards) if index != shard]
        facts, stamps = board.facts, open_stamps(board)
        self.keyspace = Keyspace(
            shard,
            facts.shards,
            facts.max_value,
            self._stored,
            max_memory=facts.max_memory,
            evictor=Evictor(stamps, random.random) if stamps is not None else None,
        )
        self.announcements: list[bytes] = []
        self.figures = dict.fromkeys(ShardRow.FIGURES, 0)
        self._expire_at = 0.0  # not before this time.monotonic()
        self._failing = False  # the last append did
        self._map_room = 0  # bytes that may still be written before it has to be looked up
        self._measured_at = 0.0

    def load(self) -> None:
        """Fill the dict from the map."""
        self.keyspace.load(self._map.entries())
        self._row.bytes_now = self.keyspace.bytes

    def write(self, requests: Sequence[Sequence[Operation]], size: int = 0) -> list[list[Reply]]:
        """Do `requests`, in order, in one group, joined by what is due to expire, as far as the group takes them.

        Gives the replies to each. Where they are fewer than the operations, the group was full: the others were not
        looked at. At least one operation is decided. Further groups come first if more keys have to be evicted than
        one may.

        `size`: at least as many bytes as keys and values have. No operation is a `DeletePrefix`.
        Raises `LogBroken` and `MapFull`: then the process must end without another word.
        """
        group = self._begin(size)
        if time.monotonic() >= self._expire_at:
            group.expire(EXPIRE_KEYS)
        decide = group.decide
        replies: list[Reply] = []
        begun, evicting = 0, EVICT_GROUPS
        for operation in chain.from_iterable(requests):
            replies.append(decide(operation))
            if not group.full:
                continue
            while group.starved and evicting:
                evicting -= 1
                group.refused -= 1
                replies.pop()
                self._end(group, replies, begun)
                begun, group = len(replies), self._begin(size)
                decide = group.decide
                replies.append(decide(operation))
            if group.full:
                break
        self._end(group, replies, begun)
        self.figures["queue"] = max(self.figures["queue"], len(replies))
        answers = iter(replies)
        return [list(islice(answers, len(request))) for request in requests]

    def delete_prefix(self, operation: DeletePrefix) -> Reply:
        """One step of a prefix delete: a group of its own, so that map and dict agree. Raises as `write` does."""
        try:
            check_utf8(operation.prefix, "prefix")
            check_utf8(operation.after, "key to go on after")
            if operation.limit < 1:
                raise BadRequest("the limit of a prefix delete is at least 1")
        except KVError as error:
            return self._refused(Failed.of(error))
        limit = min(operation.limit, PREFIX_KEYS)
        keys = [key for key, _, _ in self._map.list_versions(operation.prefix, operation.after, limit)]
        group = self.keyspace.begin(self._clock.now())
        reply = group.delete_prefix(operation, keys, keys[-1] if len(keys) == limit else None)
        refusal = self._commit(group)
        if refusal is not None:
            return self._refused(refusal)
        self.figures["operations"] += bool(group.events)
        return reply

    def expiry_in_s(self, most_s: float) -> float:
        """How long until something may be due, at most `most_s`."""
        due_in_ms = self.keyspace.due_in_ms(self._clock.now())
        if due_in_ms is None:
            return most_s
        wait_s = max(due_in_ms / 1000, self._expire_at - time.monotonic(), 0.0)
        return min(wait_s, most_s)

    def housekeep(self, watermark: tuple[int, int]) -> None:
        """To be called once a second between groups: free dead readers' slots and room again, note how far the log is
        covered (`watermark`)."""
        self._map.storage.reader_check()
        pinned = self._map.storage.pinning_readers(time.monotonic())
        if self._map.storage.full and self._map.storage.restore_ballast():
            log.info("the map has room again")
        with contextlib.suppress(MapFull):  # then a restart replays more
            self._map.advance(*watermark)
        self._measure()
        self.figures.update(
            map_bytes=self._map.storage.size_bytes(),
            pinned_pid=max(pinned, key=lambda reader: reader[1])[0] if pinned else 0,
        )

    def publish_figures(self) -> None:
        """Show the figures on the board."""
        self.figures.update(keys=len(self.keyspace), bytes=self.keyspace.bytes)
        self._row.publish_figures(self.figures)
        self.figures.update(queue=0, expiry_lag_ms=0)  # these two are the most since they were shown last

    def _begin(self, size: int) -> Group:
        """A group of `size` bytes."""
        room = self._room(size)
        others = sum([row.bytes_now for row in self._others]) if self.keyspace.max_memory else 0
        return self.keyspace.begin(self._clock.now(), room, self._map_room // _PAGES, others, size)

    def _end(self, group: Group, replies: list[Reply], begun: int) -> None:
        """Commit `group`, whose replies stand in `replies` from `begun` on; if that fails, they become refusals."""
        refusal = self._commit(group)
        if refusal is None:
            self.figures["refused"] += group.refused
            if group.events:
                self.figures["operations"] += len(replies) - begun
        else:
            self.figures["refused"] += len(replies) - begun
            replies[begun:] = [refusal] * (len(replies) - begun)

    def _stored(self, key: bytes) -> tuple[bytes, str]:
        """Value and content type of a key in the dict."""
        item = self._map.get(key, BEGINNING)  # expired or not: the dict decides
        assert item is not None, f"the map has no {key!r}"
        return item.value, item.content_type

    def _commit(self, group: Group) -> Failed | None:
        """Log, flush and apply what `group` decided; or discard it, and the refusal that answers all of it."""
        events = group.events
        if not events:
            group.commit(0)
            return None
        begun = time.monotonic_ns()
        payload = encode_events(group.record())
        try:
            record = self._log.append(payload, len(events), group.now)
        except LogBroken:
            raise
        except GivenUp:
            group.discard()
            return Failed.of(Unavailable("the shard is stopping"))
        except LogError as error:
            group.discard()
            self._expire_at = time.monotonic() + _RETRY_S
            if not self._failing:
                log.warning("nothing can be written: %s", error)
            self._failing = True
            return Failed.of(InsufficientStorage(str(error)) if isinstance(error, LogFull) else Unavailable(str(error)))
        if self._failing:
            log.info("writing goes on")
        self._failing = False
        appended = time.monotonic_ns()
        if self._flushed_each:
            self._log.flush(record.end)
        flushed = time.monotonic_ns()
        group.answer(self._map.apply_changes(events, record, group.commit(record.revision)))
        self._row.bytes_now = self.keyspace.bytes
        self._row.clear_open()
        self._announce(record)
        self._map_room -= _PAGES * len(payload)
        figures = self.figures
        figures["append_ns"] += appended - begun
        figures["flush_ns"] += flushed - appended
        figures["apply_ns"] += time.monotonic_ns() - flushed
        self._count(events, group)
        log.log(TRACE, "revision %d: %d events, %d bytes", record.revision, len(events), len(payload))
        return None

    def _announce(self, record: Record) -> None:
        whole = record.end - record.lsn <= PUBLISH_BYTES
        self.announcements.append(self._log.appended if whole else self._log.appended[:HEADER])

    def _count(self, events: Sequence[Event], group: Group) -> None:
        figures, kinds = self.figures, list(map(type, events))
        figures["groups"] += 1
        figures["puts"] += kinds.count(PutEvent)
        figures["touches"] += kinds.count(TouchEvent)
        figures["prefix_deletes"] += group.prefix_deleted
        figures["deletes"] += kinds.count(DeleteEvent) - group.expired - group.prefix_deleted - group.evicted
        figures["expired"] += group.expired
        figures["evicted"] += group.evicted
        figures["expiry_lag_ms"] = max(figures["expiry_lag_ms"], group.lag_ms)

    def _refused(self, refusal: Failed) -> Failed:
        self.figures["refused"] += 1
        return refusal

    def _room(self, size: int) -> Room:
        """What a group of `size` bytes may write."""
        if self._words.full:
            return Room.DELETES
        if self._map_room < _PAGES * (size + FULL_BYTES) and time.monotonic() >= self._measured_at + _MEASURE_S:
            self._measure()
        full = self._map.storage.full or self._map_room < _PAGES * size
        self.figures["map_full"] = int(full)
        return Room.NO_GROWTH if full else Room.ALL

    def _measure(self) -> None:
        self._map_room = self._map.storage.free_bytes() - MAP_RESERVE
        self._measured_at = time.monotonic()
