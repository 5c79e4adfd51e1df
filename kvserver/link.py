"""One worker's connection to one shard: a DEALER socket, what waits to be sent, and what waits for an answer.

All operations of one turn of the event loop travel in one message, but for those that may take the shard long: these
travel alone, so that nobody waits for another one's. A write whose message may have been received is
never sent again: if its answer does not come, nobody can know its outcome (`OutcomeUnknown`). What was surely not
executed, because ZeroMQ never took it or the shard refused the message, waits for the shard's restart until its
deadline and then ends as `Unavailable`.

The socket is made for one incarnation of the shard and connects to that incarnation's own path, with IMMEDIATE (no
queue without a connection) and LINGER 0 (no message outlives the socket): a restarted shard can never be handed what
was meant for its predecessor.
"""

from __future__ import annotations

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, chain, islice
from operator import attrgetter
from pathlib import Path
from typing import Any

import zmq
from zmq.utils.monitor import recv_monitor_message

from shards import protocol
from shards.board import ShardRow
from shards.errors import DeadlinePassed, KVError, OutcomeUnknown, ProtocolError, Unavailable
from shards.protocol import SMALL_BYTES, SMALL_OPS, Failed, OfOneKey, Operation, Reply, count_of, is_plain, size_of

MOST_WAITING = 256
"""Requests of one worker that may wait for a shard that cannot be reached; further ones are refused at once."""
MOST_WAITING_BYTES = 64 << 20
"""Bytes of keys and values that may wait with them. One request may wait whatever its size."""
LATE_NS = 200_000_000
"""How much longer than its deadline a message is waited for: the shard may be about to refuse it."""

_PACKED_BYTES = SMALL_BYTES // 2  # of keys and values in a small message: there are types, conditions and the like, too
_COPY_BELOW = 1 << 20  # bytes of a message below which copying costs less than another thread that lets go of it
_PAUSE_BYTES = 1 << 20  # of a message behind which others get their turn: to take it in takes about a millisecond
_WATCHED = zmq.Event.DISCONNECTED | zmq.Event.HANDSHAKE_SUCCEEDED
# Plain numbers: those of ZeroMQ's enumerations cost more than the calls they are for.
_DONTWAIT, _EVENTS, _POLLIN = int(zmq.DONTWAIT), int(zmq.EVENTS), int(zmq.POLLIN)

log = logging.getLogger("kvserver.router")


class Pending(ABC):
    """What travels to a shard, whose answer is due: `answer` or `fail` is called, once.

    Attributes:
        operations: what the shard is asked, in this order.
        count: how many operations that is, those of atomic batches singly.
        size: bytes of their keys and values.
        deadline_ns: until when the shard may begin with it, by CLOCK_MONOTONIC.
        place: its place among all that the link was given.
    """

    __slots__ = ("count", "deadline_ns", "operations", "place", "size")

    operations: Sequence[Operation]
    count: int
    size: int
    deadline_ns: int
    place: int

    @abstractmethod
    def answer(self, replies: Iterator[Reply]) -> None:
        """Take what is this one's from `replies`."""

    @abstractmethod
    def fail(self, error: KVError) -> None:
        """There is no reply."""


class _Delivered(Pending):
    """Calls `deliver` with what came of it, or an error."""

    __slots__ = ("_deliver",)

    _deliver: Callable[[Any], None]

    def fail(self, error: KVError) -> None:
        self._deliver(error)


class Single(_Delivered):
    """An operation; `deliver` is called with its reply."""

    __slots__ = ()

    def __init__(self, operation: Operation, deadline_ns: int, deliver: Callable[[Reply | KVError], None]) -> None:
        self.operations, self.deadline_ns, self._deliver = (operation,), deadline_ns, deliver
        self.size, self.count = size_of(operation), count_of(operation)

    def answer(self, replies: Iterator[Reply]) -> None:
        self._deliver(next(replies))


class Portion(_Delivered):
    """Operations of one key each that travel together, and must fit into one message: `deliver` is called with all
    replies. While they wait they are one request. `size`: bytes of their keys and values."""

    __slots__ = ()

    def __init__(
        self, operations: Sequence[OfOneKey], size: int, deadline_ns: int,
        deliver: Callable[[Sequence[Reply] | KVError], None],
    ) -> None:  # fmt: skip
        self.operations, self.deadline_ns, self._deliver = operations, deadline_ns, deliver
        self.size, self.count = size, len(operations)

    def answer(self, replies: Iterator[Reply]) -> None:
        self._deliver(list(islice(replies, self.count)))


class _Sent:
    """A message that was handed to ZeroMQ.

    Attributes:
        deadline_ns: until when the shard may begin with it.
        waiting: who has no answer yet.
        count: how many operations it holds.
    """

    __slots__ = ("_places", "_replies", "count", "deadline_ns", "waiting")

    def __init__(self, deadline_ns: int, waiting: list[Pending], count: int) -> None:
        self.deadline_ns, self.waiting, self.count = deadline_ns, waiting, count
        self._replies: dict[int, Reply] = {}
        self._places: list[range] = []  # of the operations of each that waits; empty until a part comes

    def take(self, places: Sequence[int], replies: Sequence[Reply]) -> list[tuple[Pending, Iterator[Reply]]]:
        """Take in some of the replies; who has all of its own now, and waits no more."""
        if not self._places:
            ends = list(accumulate(len(pending.operations) for pending in self.waiting))
            self._places = [range(begin, end) for begin, end in zip([0, *ends], ends, strict=False)]
        kept = self._replies
        kept.update(zip(places, replies, strict=True))
        ready: list[tuple[Pending, Iterator[Reply]]] = []
        left: list[tuple[Pending, range]] = []
        for pending, own in zip(self.waiting, self._places, strict=True):
            if own[0] in kept and all(place in kept for place in own):
                ready.append((pending, iter([kept.pop(place) for place in own])))
            else:
                left.append((pending, own))
        self.waiting, self._places = [pending for pending, _ in left], [own for _, own in left]
        return ready


class Link:
    """The connection to one shard. All methods are called from the event loop's thread; none blocks.

    Counters, for the board: `messages` and `operations` sent, `unknown` outcomes.
    """

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], row: ShardRow, index: int, run_dir: Path,
        loop: asyncio.AbstractEventLoop,
    ) -> None:  # fmt: skip
        self._context, self._row, self._index, self._run_dir, self._loop = context, row, index, run_dir, loop
        self._waiting: deque[Pending] = deque()
        self._in_flight: dict[int, _Sent] = {}
        self._next_id = 1
        self._flush_scheduled = False
        self._socket: zmq.Socket[bytes] | None = None
        self._monitor: zmq.Socket[bytes] | None = None
        self._incarnation = 0  # that the socket is for
        self._dead_incarnation = 0  # that was seen to go
        self._open = False  # the last send was taken, as far as known
        self._closed = False
        self._given = 0  # how many were enqueued
        self.messages = self.operations = self.unknown = 0

    @property
    def up(self) -> bool:
        """Whether the shard that serves now is connected."""
        return self._open and self._incarnation == self._row.incarnation

    def enqueue(self, pending: Pending) -> None:
        """Send `pending` with this turn's message. It is answered or fails later; it fails now if the shard was given
        up or too much waits for it already."""
        if not self._open and (self._closed or self._row.given_up or self._is_crowded(pending.size)):
            pending.fail(Unavailable(f"shard {self._index} is down"))
            return
        self._given += 1
        pending.place = self._given
        self._waiting.append(pending)
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self._loop.call_soon(self._flush)

    def _is_crowded(self, size: int) -> bool:
        """Whether `size` bytes more are too much to wait."""
        waiting = self._waiting
        if len(waiting) >= MOST_WAITING:
            return True
        return bool(waiting) and size + sum(pending.size for pending in waiting) > MOST_WAITING_BYTES

    def tick(self) -> None:
        """Called every few milliseconds: reconnects, sends what waits, lets pass what is late."""
        if self._row.incarnation != self._incarnation:
            self._connect()
        now = time.monotonic_ns()
        late = [id for id, sent in self._in_flight.items() if now > sent.deadline_ns + LATE_NS]
        for id in late:
            self._fail(self._in_flight.pop(id).waiting)
        if self._waiting:
            self._drop_late(now)
            self._flush()

    def close(self) -> None:
        """Drop the connection; everything unanswered ends, and what is still to come fails."""
        self._closed = True
        self._disconnect()
        while self._waiting:
            self._waiting.popleft().fail(Unavailable("the server is stopping"))

    # Sending

    def _flush(self) -> None:
        self._flush_scheduled = False
        if self._closed:
            return
        if self._row.incarnation != self._incarnation:
            self._connect()
        # A shard that is not in its row any more is stopping, and would refuse what it still reads.
        while self._waiting and self._socket is not None and self._row.incarnation == self._incarnation:
            batch = self._take()
            if not self._send(batch):
                self._waiting.extendleft(reversed(batch))
                break
        self._receive()  # the descriptor is edge-triggered: sending may have swallowed the edge

    def _take(self) -> list[Pending]:
        """What travels in one message: what may take long alone, the rest as far as a message stays small."""
        waiting, batch = self._waiting, [self._waiting.popleft()]
        size, count = batch[0].size, batch[0].count
        if not _is_small(batch[0]):
            return batch
        while waiting and _is_small(waiting[0]):
            size += waiting[0].size
            count += waiting[0].count
            if count > SMALL_OPS or size > _PACKED_BYTES:
                break
            batch.append(waiting.popleft())
        return batch

    def _send(self, batch: list[Pending]) -> bool:
        """Hand one message to ZeroMQ; False if it surely did not take it."""
        assert self._socket is not None
        deadline_ns = min([pending.deadline_ns for pending in batch])
        operations = list(chain.from_iterable([pending.operations for pending in batch]))
        frame = protocol.encode_request(self._next_id, self._incarnation, deadline_ns, operations)
        try:
            self._socket.send(frame, _DONTWAIT, copy=len(frame) < _COPY_BELOW)
        except zmq.Again:
            self._open = False
            return False
        self._open = True
        self._in_flight[self._next_id] = _Sent(deadline_ns, batch, len(operations))
        self._next_id += 1
        self.messages += 1
        self.operations += len(operations)
        return True

    # Receiving

    def _receive(self) -> None:
        """Take in what has come; what is behind a large message in the next turn, so that others have theirs."""
        if self._take_in(_PAUSE_BYTES):
            self._loop.call_soon(self._receive)  # nothing else would tell of it: the descriptor is edge-triggered

    def _take_in(self, most: int | None) -> bool:
        """Take in what has come, up to the first message of `most` bytes or more (None: all). Whether it was one."""
        while self._socket is not None and int(self._socket.get(_EVENTS)) & _POLLIN:
            frame = self._socket.recv(_DONTWAIT)
            try:
                if protocol.is_part(frame):
                    self._answer_some(*protocol.decode_part(frame))
                else:
                    self._answer(*protocol.decode_reply(frame))
            except ProtocolError as error:
                log.error("shard %d sent what is no reply: %s", self._index, error)
            if most is not None and len(frame) >= most:
                return True
        return False

    def _answer_some(self, id: int, places: list[int], replies: list[Reply]) -> None:
        sent = self._in_flight.get(id)
        if sent is None:
            return  # nobody waits for it any more
        ready = sent.take(places, replies)
        if not sent.waiting:
            del self._in_flight[id]
        for pending, answers in ready:
            pending.answer(answers)

    def _answer(self, id: int, replies: list[Reply]) -> None:
        sent = self._in_flight.pop(id, None)
        if sent is None:
            return
        batch, count = sent.waiting, sent.count
        refusal = replies[0].error() if len(replies) == 1 and isinstance(replies[0], Failed) else None
        if isinstance(refusal, Unavailable):  # refused as a whole, surely not executed
            # Several messages may come back one after the other: the operations of a request keep their order.
            self._waiting = deque(sorted([*batch, *self._waiting], key=attrgetter("place")))
            self._drop_late(time.monotonic_ns())
        elif len(replies) == count:
            left = iter(replies)
            for pending in batch:
                pending.answer(left)
        else:
            for pending in batch:
                pending.fail(refusal or ProtocolError("a reply of another length"))

    def _fail(self, batch: list[Pending]) -> None:
        self.unknown += sum(len(pending.operations) for pending in batch)
        for pending in batch:
            pending.fail(OutcomeUnknown(f"shard {self._index} did not answer"))

    def _drop_late(self, now: int) -> None:
        """End what waited until its deadline, or all of it if the shard will not come back."""
        given_up = self._row.given_up
        late = [pending for pending in self._waiting if given_up or now >= pending.deadline_ns]
        if late:
            self._waiting = deque(pending for pending in self._waiting if not given_up and now < pending.deadline_ns)
            for pending in late:  # only now: to deliver may submit again
                pending.fail(self._why_not(bool(given_up)))

    def _why_not(self, given_up: bool) -> Unavailable:
        """What is told of a request that was never sent."""
        if self._open and not given_up:
            return DeadlinePassed(f"shard {self._index} did not come to it in time")
        return Unavailable(f"shard {self._index} is down")

    # Connecting

    def _connect(self) -> None:
        """A new socket for the incarnation that serves now, if there is one that was not seen to go."""
        incarnation = self._row.incarnation
        if incarnation in (0, self._dead_incarnation):
            return
        self._disconnect()
        socket = self._context.socket(zmq.DEALER)
        socket.setsockopt(zmq.IMMEDIATE, 1)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RCVHWM, 0)
        socket.setsockopt(zmq.RECONNECT_IVL, 10)
        self._monitor = socket.get_monitor_socket(_WATCHED)
        socket.connect(f"ipc://{self._run_dir}/shard-{self._index}-{incarnation:x}.req")
        self._socket, self._incarnation = socket, incarnation
        self._loop.add_reader(socket.FD, self._receive)
        self._loop.add_reader(self._monitor.FD, self._watch)
        self._watch()

    def _disconnect(self) -> None:
        """Close the socket; of what it was handed, nobody can know."""
        self._take_in(None)
        if self._socket is None or self._monitor is None:
            return
        self._loop.remove_reader(self._socket.FD)
        self._loop.remove_reader(self._monitor.FD)
        self._socket.disable_monitor()
        self._monitor.close(0)
        self._socket.close(0)
        self._socket = self._monitor = None
        self._open, self._incarnation = False, 0
        unanswered, self._in_flight = self._in_flight, {}
        for sent in unanswered.values():
            self._fail(sent.waiting)

    def _watch(self) -> None:
        """Read the monitor: a shard that dies is known at once."""
        while self._monitor is not None:
            try:
                event = recv_monitor_message(self._monitor, zmq.DONTWAIT)["event"]
            except zmq.Again:
                return
            if event == zmq.Event.DISCONNECTED:
                log.debug("shard %d is gone", self._index)
                self._dead_incarnation = self._incarnation
                self._disconnect()  # closes the monitor too
                return
            if event == zmq.Event.HANDSHAKE_SUCCEEDED:
                self._open = True
                self._flush()


def _is_small(pending: Pending) -> bool:
    """Whether it may travel with others."""
    return pending.count <= SMALL_OPS and pending.size <= _PACKED_BYTES and is_plain(pending.operations)
