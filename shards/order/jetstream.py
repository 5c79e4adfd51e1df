"""The order of a cluster on NATS JetStream: the side of it that is in the shard.

All that knows NATS is in a process of its own, `shards.order.carrier`, on the other end of two Unix sockets: so
the shard's loop stays one thread that blocks on nothing. Tidings have a socket of their own, since what they are for
must not wait behind megabytes of messages. If that process dies and comes again, following goes on behind the last
message that was taken.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from shards.order import link
from shards.order.order import Identity, Message, NotTaken, OrderError, OrderUnreachable, Reach

_OPEN_S: Final = 30.0
_RETRY_S: Final = 0.1
_MOST_UNSENT: Final = 16 << 20
"""Bytes that wait for the child to read, above which nothing more is taken."""
_READ_BYTES: Final = 1 << 20
_READ_TURN_BYTES: Final = 8 << 20  # for which one `take` reads at most, so that the loop goes on with what there is


class _Line:
    """A connection to the child, made again when it is gone. Nothing blocks.

    Args:
        path: of the child's socket.
        readable: where a descriptor is registered while there is one.
        greeting: makes the first frame of each connection.

    Attributes:
        unsent: bytes that the child has not taken.
    """

    def __init__(self, path: Path, readable: select.epoll, greeting: Callable[[], link.ToChild]) -> None:
        self._path, self._readable, self._greeting = path, readable, greeting
        self._socket: socket.socket | None = None
        self._splitter = link.Splitter()
        self._retry_at = 0.0
        self.unsent = bytearray()

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection, as far as is known."""
        return self._socket is not None

    def send(self, frame: link.ToChild) -> None:
        """Send a frame, at once or with one of the next calls; it is lost if there is no connection to be had."""
        if not self._socket:
            self._connect()
        if self._socket:
            self.unsent += link.encode_frame(frame)
            self.flush()

    def flush(self) -> None:
        """Send what the child can take now; the descriptor is also readable when it can take more."""
        if not self._socket or not self.unsent:
            return
        try:
            sent = self._socket.send(self.unsent)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.close()
            return
        del self.unsent[:sent]
        events = select.EPOLLIN | select.EPOLLOUT if self.unsent else select.EPOLLIN
        self._readable.modify(self._socket, events)

    def receive(self) -> list[link.FromChild]:
        """Connect if there is no connection, and return what the child has sent, at most `_READ_TURN_BYTES` of it.

        Raises `LinkError`.
        """
        if not self._socket:
            self._connect()
        self.flush()
        frames: list[link.FromChild] = []
        left = _READ_TURN_BYTES
        while self._socket and left > 0:
            try:
                data = self._socket.recv(_READ_BYTES)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if not data:
                self.close()
                break
            left -= len(data)
            frames += map(link.decode_from_child, self._splitter.feed(data))
        return frames

    def close(self, again_in_s: float = _RETRY_S) -> None:
        """Disconnect; `receive` connects again, but not before that time."""
        self.unsent.clear()
        self._splitter = link.Splitter()
        if self._socket:
            self._readable.unregister(self._socket)
            self._socket.close()
            self._socket = None
            self._retry_at = time.monotonic() + again_in_s

    def _connect(self) -> None:
        if time.monotonic() < self._retry_at:
            return
        self._retry_at = time.monotonic() + _RETRY_S
        connecting = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connecting.setblocking(False)
            connecting.connect(str(self._path))
        except OSError:
            connecting.close()
            return
        self._socket = connecting
        self._readable.register(connecting, select.EPOLLIN)
        self.send(self._greeting())


class JetStreamOrder:
    """An `Order`. Args: `path`: of the child's socket."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._readable = select.epoll()
        self._messages = _Line(path, self._readable, self._ask_to_follow)
        self._tidings = _Line(path, self._readable, link.Listen)
        self._identity: Identity | None = None
        self._after = 0  # of what was put into `_taken`
        self._number = 0
        self._is_open = False
        self._failure: OrderError | None = None
        self._obstacle = ""
        self._reach = Reach(1, 0)
        self._taken: list[Message] = []
        self._not_taken: list[int] = []
        self._told: list[tuple[str, bytes]] = []

    def open(self, after: int, known: Identity | None) -> None:
        """See `Order.open`. `after` may be `link.AT_THE_END`."""
        self._messages.close(again_in_s=0.0)
        self._is_open = False
        self._taken.clear()
        self._after, self._identity, self._failure, self._obstacle = after, known, None, ""
        self._reach = Reach(1, max(after, 0))

    def opened(self) -> Identity | None:
        """See `Order.opened`."""
        self._receive()
        if self._failure:
            raise self._failure
        return self._identity if self._is_open else None

    def obstacle(self) -> str:
        """See `Order.obstacle`."""
        if self._is_open:
            return ""
        if not self._obstacle and not self._messages.is_connected:
            return f"nothing listens at {self._path}: is the order's process running?"
        return self._obstacle or "the order's process has not answered yet"

    def open_within(self, after: int, known: Identity | None, timeout_s: float = _OPEN_S) -> Identity:
        """Open, for a program that has nothing else to do, and wait for it.

        Raises what `opened` does, and `OrderUnreachable` if it takes longer.
        """
        self.open(after, known)
        give_up_at = time.monotonic() + timeout_s
        while (left_s := give_up_at - time.monotonic()) > 0:
            identity = self.opened()
            if identity is not None:
                return identity
            self._readable.poll(min(left_s, _RETRY_S))
        problem = OrderUnreachable(f"the order did not answer within {timeout_s:g} s: {self.obstacle()}")
        self._disconnect()
        raise problem

    def propose(self, payload: bytes) -> int:
        """See `Order.propose`."""
        if not self._is_open or len(self._messages.unsent) > _MOST_UNSENT:
            raise NotTaken("the order's process is not there, or does not keep up")
        self._number += 1
        self._messages.send(link.Propose(self._number, payload))
        return self._number

    def not_taken(self) -> Sequence[int]:
        """See `Order.not_taken`."""
        numbers, self._not_taken = self._not_taken, []
        return numbers

    def take(self) -> Sequence[Message]:
        """See `Order.take`. Connects to the child again if it was gone."""
        if self._failure and not self._taken:
            raise self._failure
        self._receive()
        taken, self._taken = self._taken, []
        return taken

    def fileno(self) -> int:
        """See `Order.fileno`."""
        return self._readable.fileno()

    def tell(self, payload: bytes) -> None:
        """See `Order.tell`."""
        self._send_tidings(link.Tell(payload))

    def told(self) -> Sequence[tuple[str, bytes]]:
        """See `Order.told`."""
        self._read(self._tidings)
        told, self._told = self._told, []
        return told

    def ask(self, node: str, payload: bytes) -> None:
        """See `Order.ask`."""
        self._send_tidings(link.Ask(node, payload))

    def hint(self, last: int) -> None:
        """See `Order.hint`."""
        if last > self._reach.last and self._is_open:
            self._messages.send(link.Hint(last))

    def reach(self) -> Reach:
        """See `Order.reach`."""
        return self._reach

    def trim(self, below: int) -> None:
        """See `Order.trim`."""
        if self._is_open:
            self._messages.send(link.Trim(below))

    def close(self) -> None:
        """See `Order.close`."""
        self._disconnect()
        self._tidings.close()
        self._readable.close()

    # The sockets.

    def _ask_to_follow(self) -> link.ToChild:
        name, created_ns = self._identity or (None, 0)
        return link.Open(self._after, name, created_ns)

    def _disconnect(self) -> None:
        self._is_open = False
        self._messages.close()

    def _send_tidings(self, frame: link.ToChild) -> None:
        if len(self._tidings.unsent) <= _MOST_UNSENT:
            self._tidings.send(frame)

    def _receive(self) -> None:
        self._read(self._messages)
        self._is_open = self._is_open and self._messages.is_connected

    def _read(self, line: _Line) -> None:
        try:
            for frame in line.receive():
                self._handle(frame)
        except link.LinkError as error:
            self._failure = OrderError(f"the order's process is of another version: {error}")
            self._disconnect()

    def _handle(self, frame: link.FromChild) -> None:
        if isinstance(frame, link.Took):
            self._take(frame)
        elif isinstance(frame, link.Told):
            self._told.append((frame.node, frame.payload))
        elif isinstance(frame, link.NotTaken):
            self._not_taken.append(frame.number)
        elif isinstance(frame, link.Reached):
            self._reach = Reach(frame.first, max(frame.last, self._after))
        elif isinstance(frame, link.Opened):
            self._identity = Identity(frame.name, frame.created_ns)
            if self._after == link.AT_THE_END:
                self._after = frame.last
            self._reach = Reach(frame.first, max(frame.last, self._after))
            self._is_open = True
        else:
            self._fail(frame.error(self._after))

    def _take(self, frame: link.Took) -> None:
        if frame.sequence <= self._after:
            return
        if frame.sequence != self._after + 1:
            self._failure = OrderError(f"the order's process sent message {frame.sequence} behind {self._after}")
            return
        self._after = frame.sequence
        self._taken.append(Message(frame.sequence, frame.time_ms, frame.payload))
        if frame.sequence > self._reach.last:
            self._reach = Reach(self._reach.first, frame.sequence)

    def _fail(self, error: OrderError) -> None:
        """Follow no longer; but go on trying to reach an order that cannot be reached."""
        if isinstance(error, OrderUnreachable):
            self._obstacle = str(error)
            self._disconnect()
        else:
            self._failure = error
