"""One worker's link to one shard: the requests that wait to be sent, and those that wait for an answer.

All operations of one turn of the event loop travel in one message, but for those that may take the shard long: these
travel alone, so that no request waits for another's. A write whose message may have been received is
never sent again: if its answer does not come, its outcome is unknown (`OutcomeUnknown`). What was certainly not
executed, because ZeroMQ never took it or the shard refused the message, waits for the shard's restart until its
deadline and then ends as `Unavailable`.

Each incarnation of the shard gets a socket of its own (`kvserver.store.shard_socket`), which ends with it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from enum import Enum
from functools import partial
from itertools import chain
from operator import attrgetter
from pathlib import Path

import zmq

from kvserver.store.pending import PACKED_BYTES, InFlight, Pending, is_small
from kvserver.store.shard_socket import ShardSocket
from shards.host.board import ShardRow
from shards.wire import protocol
from shards.wire.errors import DeadlinePassed, KVError, OutcomeUnknown, ProtocolError, Unavailable
from shards.wire.protocol import SMALL_OPS, Failed, Reply

MOST_WAITING = 256
"""Requests of one worker that may wait for a shard that cannot be reached; further ones are refused at once."""
MOST_WAITING_BYTES = 64 << 20
"""Bytes of keys and values that may wait with them. One request may wait whatever its size."""
LATE_NS = 200_000_000
"""How much longer than its deadline a message is waited for: the shard may be about to refuse it."""

_PAUSE_BYTES = 1 << 20  # of a message after which other tasks run: taking it in takes about a millisecond

log = logging.getLogger("kvserver.router")


class LinkState(Enum):
    """What a link expects of the next message.

    - DOWN: ZeroMQ will not accept it, as far as known: requests wait, within limits.
    - UP: ZeroMQ will accept it: the shard has connected, or took the last one.
    - CLOSED: it is never sent.
    """

    DOWN = 0
    UP = 1
    CLOSED = 2


_DOWN, _UP, _CLOSED = LinkState  # looked up by every request


class LinkCounters:
    """Messages and operations sent, and operations whose outcome is unknown, since the start."""

    __slots__ = ("messages", "operations", "unknown")

    def __init__(self) -> None:
        self.messages = self.operations = self.unknown = 0


class Link:
    """The link to one shard. All methods are called from the event loop's thread; none blocks.

    Attributes:
        counters: for the board.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        row: ShardRow,
        index: int,
        run_dir: Path,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._row, self._index, self._loop = row, index, loop
        self._make_socket = partial(ShardSocket, context, f"{run_dir}/shard-{index}", loop)
        self._socket: ShardSocket | None = None
        self._dead_incarnation = 0  # the last one whose death was seen
        self._state = _DOWN
        self._waiting: deque[Pending] = deque()
        self._in_flight: dict[int, InFlight] = {}  # by the id of the message
        self._next_id = 1
        self._next_place = 1
        self._flush_scheduled = False
        self.counters = LinkCounters()

    @property
    def is_up(self) -> bool:
        """Whether the shard that serves now is connected."""
        return self._state is _UP and self._incarnation == self._row.incarnation

    @property
    def _incarnation(self) -> int:
        """The incarnation that the socket is for, 0 without a socket."""
        return 0 if self._socket is None else self._socket.incarnation

    def enqueue(self, pending: Pending) -> None:
        """Send `pending` with this turn's message. It is answered or fails later.

        It fails at once, as `Unavailable`, if the shard was given up or too much waits for it already.
        """
        if self._state is not _UP and (self._state is _CLOSED or self._row.given_up or self._is_crowded(pending.size)):
            pending.fail(Unavailable(f"shard {self._index} is down"))
            return
        pending.place = self._next_place
        self._next_place += 1
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
        """Reconnect to a restarted shard, send what waits, end what is late. Called every few milliseconds."""
        if self._row.incarnation != self._incarnation:
            self._connect()
        now = time.monotonic_ns()
        late = [id for id, message in self._in_flight.items() if now > message.deadline_ns + LATE_NS]
        for id in late:
            self._fail_unknown(self._in_flight.pop(id).unanswered)
        if self._waiting:
            self._drop_late(now)
            self._flush()

    def close(self) -> None:
        """Drop the connection; everything unanswered ends, and what is still to come fails."""
        self._state = _CLOSED
        self._disconnect()
        while self._waiting:
            self._waiting.popleft().fail(Unavailable("the server is stopping"))

    # Sending

    def _flush(self) -> None:
        self._flush_scheduled = False
        if self._state is _CLOSED:
            return
        if self._row.incarnation != self._incarnation:
            self._connect()
        # A shard that is not in its row any more is stopping, and would refuse what it still reads.
        while self._waiting and self._socket is not None and self._row.incarnation == self._socket.incarnation:
            requests = self._take_message()
            if not self._send(self._socket, requests):
                self._waiting.extendleft(reversed(requests))
                break
        if self._socket is not None and self._socket.has_replies():  # sending may have swallowed the sign of them
            self._receive_replies()

    def _take_message(self) -> list[Pending]:
        """Take what travels in one message: what may take long alone, the rest as far as a message stays small."""
        waiting, requests = self._waiting, [self._waiting.popleft()]
        size, count = requests[0].size, requests[0].count
        if not is_small(requests[0]):
            return requests
        while waiting and is_small(waiting[0]):
            size += waiting[0].size
            count += waiting[0].count
            if count > SMALL_OPS or size > PACKED_BYTES:
                break
            requests.append(waiting.popleft())
        return requests

    def _send(self, socket: ShardSocket, requests: list[Pending]) -> bool:
        """Hand one message to ZeroMQ; False if it certainly did not accept it."""
        deadline_ns = min([pending.deadline_ns for pending in requests])
        operations = list(chain.from_iterable([pending.operations for pending in requests]))
        frame = protocol.encode_request(self._next_id, socket.incarnation, deadline_ns, operations)
        if not socket.send(frame):
            self._state = _DOWN
            return False
        self._state = _UP
        self._in_flight[self._next_id] = InFlight(deadline_ns, requests, len(operations))
        self._next_id += 1
        self.counters.messages += 1
        self.counters.operations += len(operations)
        return True

    # Receiving

    def _receive_replies(self) -> None:
        """Take in what has arrived; what follows a large message in the next turn, so that other tasks run between."""
        if self._take_in(_PAUSE_BYTES):
            self._loop.call_soon(self._receive_replies)  # nothing else would: the descriptor is edge-triggered

    def _take_in(self, most: int | None) -> bool:
        """Take in what has arrived, up to the first message of `most` bytes or more (None: all); True if one came."""
        if self._socket is None:
            return False
        for frame in self._socket.receive():
            try:
                if protocol.is_part(frame):
                    self._answer_part(*protocol.decode_part(frame))
                else:
                    self._answer_message(*protocol.decode_reply(frame))
            except ProtocolError as error:
                log.error("shard %d sent a malformed reply: %s", self._index, error)
            if most is not None and len(frame) >= most:
                return True
        return False

    def _answer_part(self, id: int, places: list[int], replies: list[Reply]) -> None:
        message = self._in_flight.get(id)
        if message is None:
            return  # it was late, and its requests have failed
        complete = message.add_part(places, replies)
        if not message.unanswered:
            del self._in_flight[id]
        for pending, answers in complete:
            pending.answer(answers)

    def _answer_message(self, id: int, replies: list[Reply]) -> None:
        message = self._in_flight.pop(id, None)
        if message is None:
            return
        requests = message.unanswered
        # One `Failed` is the refusal of the message as a whole, or the reply to its only operation.
        refusal = replies[0].error() if len(replies) == 1 and isinstance(replies[0], Failed) else None
        if isinstance(refusal, Unavailable):  # not executed, either way
            # Several messages may come back one after the other: the operations of a request keep their order.
            self._waiting = deque(sorted([*requests, *self._waiting], key=attrgetter("place")))
            self._drop_late(time.monotonic_ns())
        elif len(replies) == message.count:
            left = iter(replies)
            for pending in requests:
                pending.answer(left)
        else:
            for pending in requests:
                pending.fail(refusal or ProtocolError("a reply of another length"))

    def _fail_unknown(self, requests: list[Pending]) -> None:
        self.counters.unknown += sum(len(pending.operations) for pending in requests)
        for pending in requests:
            pending.fail(OutcomeUnknown(f"shard {self._index} did not answer"))

    def _drop_late(self, now: int) -> None:
        """End what waited until its deadline, or all of it if the shard will not come back."""
        given_up = self._row.given_up
        late = [pending for pending in self._waiting if given_up or now >= pending.deadline_ns]
        if late:
            self._waiting = deque(pending for pending in self._waiting if not given_up and now < pending.deadline_ns)
            for pending in late:  # only now: to deliver may enqueue again
                pending.fail(self._explain_unsent(bool(given_up)))

    def _explain_unsent(self, given_up: bool) -> KVError:
        """Return the error of a request that was never sent."""
        if self._state is _UP and not given_up:
            return DeadlinePassed(f"shard {self._index} did not get to it in time")
        return Unavailable(f"shard {self._index} is down")

    # Connecting

    def _connect(self) -> None:
        """Make a socket for the incarnation that serves now, unless there is none or its death was seen."""
        incarnation = self._row.incarnation
        if incarnation in (0, self._dead_incarnation):
            return
        self._disconnect()
        self._socket = self._make_socket(incarnation, self._receive_replies, self._on_connected, self._on_lost)
        self._socket.check_monitor()

    def _disconnect(self) -> None:
        """Close the socket. The outcome of what was sent and not answered is unknown."""
        self._take_in(None)
        if self._socket is None:
            return
        self._socket.close()
        self._socket = None
        if self._state is _UP:
            self._state = _DOWN
        unanswered, self._in_flight = self._in_flight, {}
        for message in unanswered.values():
            self._fail_unknown(message.unanswered)

    def _on_connected(self) -> None:
        self._state = _UP
        self._flush()

    def _on_lost(self) -> None:
        log.debug("shard %d is gone", self._index)
        self._dead_incarnation = self._incarnation
        self._disconnect()
