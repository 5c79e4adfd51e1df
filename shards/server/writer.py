"""How a shard writes: a group of operations is decided, logged, flushed, applied, in this order.

Nothing is visible in the map, answered or published before it is durable: `Writer.write` returns only then. If a record
cannot be appended, its group is undone and everything in it is refused, also operations that needed no record: their
answers may depend on what the group had decided.
"""

from __future__ import annotations

import contextlib
import logging
import random
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, islice
from typing import Final, Protocol

from shards.host.board import Board, ShardRow
from shards.host.logs import TRACE
from shards.keys import rules
from shards.keys.budget import Starved
from shards.keys.eviction import Evictor
from shards.keys.group import Group
from shards.keys.keyspace import Keyspace
from shards.keys.last_use import open_last_use_table
from shards.log.appender import LogAppender
from shards.log.files import GivenUp, LogBroken, LogError, LogFull
from shards.log.records import HEADER, Record
from shards.maps.layout import MapFull
from shards.maps.owner import MapOwner
from shards.server.map_allowance import MapAllowance
from shards.server.proposals import Decide, decide_starved, expire_due, propose_evictions, propose_expiries
from shards.server.room import Room, WritePolicy
from shards.wire.clock import BEGINNING, Now
from shards.wire.errors import BadRequest, InsufficientStorage, KVError, Overloaded, Unavailable
from shards.wire.keys import check_utf8
from shards.wire.protocol import (
    PUBLISH_BYTES,
    Cause,
    Change,
    DeleteEvent,
    DeletePrefix,
    Evict,
    Expire,
    Failed,
    Operation,
    Placed,
    PutEvent,
    Reply,
    Results,
    TouchEvent,
    encode_events,
)

EXPIRE_KEYS: Final = 1024
"""Most expiries in one group."""
PREFIX_KEYS: Final = 1000
"""Most keys that one step of a prefix delete looks at: about 10 ms."""
EVICT_GROUPS: Final = 8
"""Most further groups in one turn, each evicting up to `eviction.EVICT_KEYS` keys, to make an operation fit."""

_RETRY_S = 0.1  # between attempts to expire keys while the log refuses appends

_FIGURE_OF_CAUSE: Final[dict[Cause, str]] = {
    "request": "deletes",
    "prefix": "prefix_deletes",
    "expire": "expired",
    "evict": "evicted",
}
"""From the cause of a delete to the figure that counts it."""

_MAY_REFUSE: Final[frozenset[type[Reply]]] = frozenset({Failed, Results})

log = logging.getLogger("shards")


class Clock(Protocol):
    """A source of time: the board, except in tests."""

    def now(self) -> Now:
        """Return the present moment."""


class Writer:
    """The only one that changes a shard's keys and its map.

    Args:
        board, shard: where its figures and positions are shown.
        log, map: what it writes.
        clock: None: the board.

    Attributes:
        keyspace: what it knows of its keys.
        announcements: frames to publish; the caller empties it.
        figures: the shard's figures for the board; see `ShardRow.FIGURES`.
    """

    def __init__(self, board: Board, shard: int, log: LogAppender, map: MapOwner, clock: Clock | None = None) -> None:
        self._board, self._log, self._map, self._clock = board, log, map, clock or board
        self._words, self._row = board.log, board.shards[shard]
        self._flushed_each = board.facts.sync == "always"
        self._others = [row for index, row in enumerate(board.shards) if index != shard]
        facts, stamps = board.facts, open_last_use_table(board)
        self.keyspace = Keyspace(
            shard,
            facts.shards,
            facts.max_value,
            self._read_value,
            find_entry=map.find_entry,
            list_entries=map.survey_entries,
            totals=map.totals,
            find_outcome=map.find_outcome,
            max_memory=facts.max_memory,
            evictor=Evictor(stamps, random.random) if stamps is not None else None,
        )
        self.announcements: list[bytes] = []
        self.figures = dict.fromkeys(ShardRow.FIGURES, 0)
        self._allowance = MapAllowance(map)
        self._traces = logging.getLogger("shards").isEnabledFor(TRACE)  # the level never changes
        self._expire_at = 0.0  # no expiries before this time.monotonic()
        self._failing = False  # whether the last append failed
        self._row.bytes_now = self.keyspace.bytes

    def write(self, requests: Sequence[Sequence[Operation]], put_bytes: int = 0) -> list[list[Reply]]:
        """Execute `requests` in order in one group, together with due expiries, until the group is full.

        Further groups precede it if more keys have to be evicted than one group may. A `DeletePrefix` comes alone, and
        is one step of a prefix delete.

        Args:
            requests: the operations of each request. An empty sequence: due expiries only.
            put_bytes: at least the bytes of all their keys and values.

        Returns:
            The replies to each request. Where they are fewer than its operations, the group was full, and the rest was
            not looked at. At least one operation is executed.

        Raises:
            LogBroken, MapFull: the process must end without answering.
        """
        first = requests[0][0] if requests else None
        if isinstance(first, DeletePrefix):
            group = Group(self.keyspace, self._clock.now())
            replies = self._commit_or_refuse(group, [self._decide_prefix(group, first)])
        else:
            replies = self._execute(chain.from_iterable(requests), put_bytes)
            self.figures["queue"] = max(self.figures["queue"], len(replies))
        if not _MAY_REFUSE.isdisjoint(map(type, replies)):
            self.figures["refused"] += count_refusals(replies)
        if len(requests) == 1:
            return [replies]
        answers = iter(replies)
        return [list(islice(answers, len(request))) for request in requests]

    def decide(
        self, operations: Sequence[Operation], now: Now, place: Callable[[int], Placed] | None = None
    ) -> list[Reply | Starved]:
        """Execute one message of an order that several machines share: decide, log, flush and apply it.

        What is logged and answered depends on the operations, `now` and the keys as earlier messages have left them:
        neither on this machine's room, clocks and readers, nor on how messages came together. Nothing expires or is
        evicted but by an operation. A message that is too much for one group becomes several records; each ends behind
        an operation, so what is left of the operations after a restart can be given to a further call.

        Args:
            operations: of the message.
            now: its time in the order, never before that of an earlier message.
            place: makes the place in the order that a record says it has of how many operations are decided with it.
                What has one is not flushed here: see `flush_decided`.

        Returns:
            A reply to each operation; a `Starved` to one that is to be proposed again after evictions.

        Raises:
            LogError, MapFull: the process must end. Records of the message that were appended before stay.
        """
        replies: list[Reply | Starved] = []
        while len(replies) < len(operations):
            group = Group(self.keyspace, now)
            decided = self._decide_part(group, operations[len(replies) :])
            replies += decided
            self._commit(group, len(decided), place(len(replies)) if place else None)
        self.figures["queue"] = max(self.figures["queue"], len(replies))
        self.figures["refused"] += count_refusals(replies)
        return replies

    def flush_decided(self) -> None:
        """Flush what `decide` has logged, if the log is flushed by each write: once for many messages.

        To be called before anything of it is told or shown. That the map has it already does no harm: it is never
        ahead of the log by more than a restart reads again, and the order keeps what a loss of power takes.

        Raises `LogError`.
        """
        if self._flushed_each:
            begun = time.monotonic_ns()
            self._log.flush(self._board.history()[0])
            self.figures["flush_ns"] += time.monotonic_ns() - begun

    def list_due(self, now: Now, most: int = EXPIRE_KEYS) -> Expire | None:
        """Return what to propose to an order as expired at `now`, at most `most` keys, in the order of
        `ExpiryHeaps.take_due`.

        Changes nothing: unless it is decided, the next call returns the same. None: nothing is due. Keys that the
        survey has not come to are not found yet.
        """
        return propose_expiries(self.keyspace, now, most)

    def list_victims(self, operations: Sequence[Operation], now: Now, needed: int = 0) -> Evict | None:
        """Return what to propose to an order to be evicted ahead of `operations`; None: there is room, or nothing.

        `needed`: bytes, as the `Starved` of one of them has said; 0: as many as they may need. What is returned is not
        returned again unless it changes, or after `restore_victims`.
        """
        return propose_evictions(self.keyspace, operations, now, needed)

    def restore_victims(self) -> None:
        """Let `list_victims` find again what it returned and what was not decided, as it was lost on its way."""
        self.keyspace.restore_taken()

    def measure_room(self, put_bytes: int) -> Room:
        """Return what this machine has room for, if `put_bytes` are put at once."""
        if self._words.full:
            return Room(WritePolicy.DELETES, self._allowance.bytes_left)
        full = not self._allowance.admits(put_bytes)
        self.figures["map_full"] = int(full)
        return Room(WritePolicy.NO_GROWTH if full else WritePolicy.ALL, self._allowance.bytes_left)

    def expiry_in_s(self, most_s: float) -> float:
        """Return the seconds until an expiry may be due, at most `most_s`."""
        expiries = self.keyspace.expiries
        due_in_ms = None if expiries.is_empty else expiries.due_in_ms(self._clock.now())
        if due_in_ms is None:
            return most_s
        wait_s = max(due_in_ms / 1000, self._expire_at - time.monotonic(), 0.0)
        return min(wait_s, most_s)

    def maintain_map(self, watermark: tuple[int, int]) -> None:
        """Free the slots of dead readers and the ballast's space, and store how far the map covers the log.

        To be called once a second, between groups. `watermark`: up to where all shards have applied the log.
        """
        self._map.storage.reader_check()
        pinned = self._map.storage.pinning_readers(time.monotonic())
        if self._map.storage.full and self._map.storage.restore_ballast():
            log.info("the map has space again")
        with contextlib.suppress(MapFull):  # then a restart replays more
            self._map.advance(*watermark)
        self._allowance.measure()
        self.figures.update(
            map_bytes=self._map.storage.size_bytes(),
            pinned_pid=max(pinned, key=lambda reader: reader[1])[0] if pinned else 0,
        )

    def publish_figures(self) -> None:
        """Show the figures on the board, and reset those that are a maximum since the last call."""
        self.figures.update(keys=len(self.keyspace), bytes=self.keyspace.bytes)
        self._row.publish_figures(self.figures)
        self.figures.update(queue=0, expiry_lag_ms=0)

    def _execute(self, operations: Iterable[Operation], put_bytes: int) -> list[Reply]:
        """Decide `operations` until a group is full, and commit it; return the replies."""
        group, decide = self._open_group(put_bytes)
        if not self.keyspace.expiries.is_empty and time.monotonic() >= self._expire_at:
            expire_due(group, EXPIRE_KEYS)
        committed: list[Reply] = []
        replies: list[Reply] = []  # of the open group
        further_groups = EVICT_GROUPS
        for operation in operations:
            if group.load.is_full and replies and not rules.is_no_work(group, operation):
                break
            reply = decide(group, operation)
            if isinstance(reply, Starved):
                reply = decide_starved(group, operation, reply, decide)
                # What needs more evictions than this group may make is decided again in the next group, after this one
                # is committed. Each group blocks all clients for some 15 ms, so their number is limited.
                while isinstance(reply, Starved) and further_groups:
                    further_groups -= 1
                    committed += self._commit_or_refuse(group, replies)
                    (group, decide), replies = self._open_group(put_bytes), []
                    reply = decide(group, operation)
                    if isinstance(reply, Starved):
                        reply = decide_starved(group, operation, reply, decide)
                if isinstance(reply, Starved):
                    replies.append(Failed.of(Overloaded("this value needs more evictions than one write may make")))
                    break
            replies.append(reply)
        return committed + self._commit_or_refuse(group, replies)

    def _decide_part(self, group: Group, operations: Sequence[Operation]) -> list[Reply | Starved]:
        """Decide `operations` in a new `group` until it is full. A `DeletePrefix` has one of its own."""
        first = operations[0]
        if isinstance(first, DeletePrefix):
            return [self._decide_prefix(group, first)]
        replies: list[Reply | Starved] = []
        for operation in operations:
            if type(operation) is DeletePrefix or (
                group.load.is_full and replies and not rules.is_no_work(group, operation)
            ):
                break
            replies.append(rules.decide(group, operation))
        return replies

    def _decide_prefix(self, group: Group, operation: DeletePrefix) -> Reply:
        """Decide one step of a prefix delete in a new `group`, which it has to itself: its candidates come from the
        map, which must have all that was committed."""
        try:
            check_utf8(operation.prefix, "prefix")
            check_utf8(operation.after, "key to continue after")
            if operation.limit < 1:
                raise BadRequest("the limit of a prefix delete is at least 1")
        except KVError as error:
            return Failed.of(error)
        limit = min(operation.limit, PREFIX_KEYS)
        candidates = self._map.list_entries(operation.prefix, operation.after, limit)
        next = candidates[-1][0] if len(candidates) == limit else None
        return rules.delete_prefix(group, operation, candidates, next)

    def _open_group(self, put_bytes: int) -> tuple[Group, Decide]:
        """Open a group whose requests put at most `put_bytes`; return it, and what decides its operations."""
        room = self.measure_room(put_bytes)
        others_bytes = sum([row.bytes_now for row in self._others]) if self.keyspace.max_memory else 0
        group = Group(self.keyspace, self._clock.now(), others_bytes, put_bytes, room.remembered_bytes)
        group.memory.shrinks = True
        return group, rules.decide if room.is_plenty(put_bytes, self.keyspace.max_value) else room.decide

    def _read_value(self, key: bytes) -> tuple[bytes, str]:
        """Read value and content type of a key that has an entry."""
        item = self._map.get(key, BEGINNING)  # expired or not: the entry decides
        assert item is not None, f"the map has no {key!r}"
        return item.value, item.content_type

    def _commit_or_refuse(self, group: Group, replies: list[Reply]) -> list[Reply]:
        """Commit `group`; return its `replies`, or as many refusals if nothing could be logged."""
        try:
            self._commit(group, len(replies))
        except LogBroken:
            raise
        except LogError as error:
            return [self._refuse_append(error)] * len(replies)
        return replies

    def _commit(self, group: Group, operations: int, placed: Placed | None = None) -> None:
        """Log, flush and apply `group`, in which so many operations were decided, and which is `placed` in an order.

        Raises `LogError` if nothing could be logged: then the group is undone.
        """
        events = group.events
        if not events:
            group.commit(0)
            return
        begun = time.monotonic_ns()
        logged = group.record()
        payload = encode_events(logged if placed is None else [*logged, placed])
        try:
            record = self._log.append(payload, len(events), group.now)
        except LogError:
            group.discard()
            raise
        if self._failing:
            log.info("writes succeed again")
        self._failing = False
        appended = flushed = time.monotonic_ns()
        if self._flushed_each and placed is None:
            self._log.flush(record.end)
            flushed = time.monotonic_ns()
        wanted = group.commit(record.revision)
        group.replies.fill_old_values(self._map.apply_changes(events, record, wanted, group.outcomes, placed))
        self.keyspace.forget_oldest()
        self._row.bytes_now = self.keyspace.bytes
        self._row.clear_open()  # the watermark may pass this record only now
        self._announce_record(record)
        self._allowance.bytes_left -= len(payload)
        figures = self.figures
        figures["operations"] += operations
        figures["append_ns"] += appended - begun
        figures["flush_ns"] += flushed - appended
        figures["apply_ns"] += time.monotonic_ns() - flushed
        figures["expiry_lag_ms"] = max(figures["expiry_lag_ms"], group.expiry_lag_ms)
        self._count_events(events)
        if self._traces:
            log.log(TRACE, "revision %d: %d events, %d bytes", record.revision, len(events), len(payload))

    def _refuse_append(self, error: LogError) -> Failed:
        """Note that an append failed; return the refusal for everything in its group."""
        if isinstance(error, GivenUp):
            return Failed.of(Unavailable("the shard is stopping"))
        self._expire_at = time.monotonic() + _RETRY_S
        if not self._failing:
            log.warning("writes fail: %s", error)
        self._failing = True
        return Failed.of(InsufficientStorage(str(error)) if isinstance(error, LogFull) else Unavailable(str(error)))

    def _announce_record(self, record: Record) -> None:
        """Queue a record for publication; of a large one the header alone."""
        whole = record.end - record.lsn <= PUBLISH_BYTES
        self.announcements.append(self._log.appended if whole else self._log.appended[:HEADER])

    def _count_events(self, events: Sequence[Change]) -> None:
        """Add a group with `events` to the figures."""
        figures = self.figures
        figures["groups"] += 1
        for event in events:
            if type(event) is PutEvent:
                figures["puts"] += 1
            elif type(event) is TouchEvent:
                figures["touches"] += 1
            elif isinstance(event, DeleteEvent):
                figures[_FIGURE_OF_CAUSE[event.cause]] += 1


def count_refusals(replies: Sequence[Reply | Starved]) -> int:
    """Return how many operations were refused; an atomic batch is one."""
    return sum(
        isinstance(reply, Failed) or (isinstance(reply, Results) and reply.failed is not None) for reply in replies
    )
