"""The order of a cluster on NATS JetStream: the side of it that is in the shard.

All that knows NATS is in a process of its own, `shards.order.jetstream_child`, on the other end of a Unix socket: so
the shard's loop stays one thread that blocks on nothing. If that process dies and comes again, following goes on behind
the last message that was taken.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Sequence
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


class JetStreamOrder:
    """An `Order`. Args: `path`: of the child's socket."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._socket: socket.socket | None = None
        self._readable = select.epoll()
        self._splitter = link.Splitter()
        self._unsent = bytearray()
        self._identity: Identity | None = None
        self._after = 0  # of what was put into `_taken`
        self._number = 0
        self._retry_at = 0.0
        self._is_open = self._is_opening = False
        self._failure: OrderError | None = None
        self._reach = Reach(1, 0)
        self._taken: list[Message] = []
        self._not_taken: list[int] = []
        self._told: list[tuple[str, bytes]] = []

    def open(self, after: int, known: Identity | None, timeout_s: float = _OPEN_S) -> Identity:
        """See `Order.open`. `after` may be `link.AT_THE_END`."""
        self._disconnect()
        self._taken.clear()
        self._after, self._identity, self._failure = after, known, None
        self._reach = Reach(1, max(after, 0))
        self._is_opening = True
        try:
            self._open(timeout_s)
        finally:
            self._is_opening = False
        assert self._identity
        return self._identity

    def _open(self, timeout_s: float) -> None:
        """Wait until the child follows."""
        give_up_at = time.monotonic() + timeout_s
        said, reason = False, f"nothing listens at {self._path}: is the order's process running?"
        while (left_s := give_up_at - time.monotonic()) > 0:
            if self._socket is None:
                self._connect()
            if self._socket is None:
                time.sleep(min(left_s, _RETRY_S))
                continue
            if not said:
                reason = "its process has not found it yet"
            self._flush()
            self._readable.poll(min(left_s, _RETRY_S))
            self._receive()
            if isinstance(self._failure, OrderUnreachable):
                said, reason, self._failure = True, str(self._failure), None
                self._disconnect()
                time.sleep(min(left_s, _RETRY_S))
            elif self._failure:
                raise self._failure
            if self._is_open:
                return
        self._disconnect()
        raise OrderUnreachable(f"the order did not answer within {timeout_s:g} s: {reason}")

    def propose(self, payload: bytes) -> int:
        """See `Order.propose`."""
        if not self._is_open or len(self._unsent) > _MOST_UNSENT:
            raise NotTaken("the order's process is not there, or does not keep up")
        self._number += 1
        self._send(link.Propose(self._number, payload))
        return self._number

    def not_taken(self) -> Sequence[int]:
        """See `Order.not_taken`."""
        numbers, self._not_taken = self._not_taken, []
        return numbers

    def take(self) -> Sequence[Message]:
        """See `Order.take`. Connects to the child again if it was gone."""
        if self._failure and not self._taken:
            raise self._failure
        if self._socket is None and time.monotonic() >= self._retry_at:
            self._retry_at = time.monotonic() + _RETRY_S
            self._connect()
        self._flush()
        self._receive()
        taken, self._taken = self._taken, []
        return taken

    def fileno(self) -> int:
        """See `Order.fileno`."""
        return self._readable.fileno()

    def tell(self, payload: bytes) -> None:
        """See `Order.tell`."""
        self._send_if_open(link.Tell(payload))

    def told(self) -> Sequence[tuple[str, bytes]]:
        """See `Order.told`."""
        told, self._told = self._told, []
        return told

    def ask(self, node: str, payload: bytes) -> None:
        """See `Order.ask`."""
        self._send_if_open(link.Ask(node, payload))

    def hint(self, last: int) -> None:
        """See `Order.hint`."""
        if last > self._reach.last:
            self._send_if_open(link.Hint(last))

    def reach(self) -> Reach:
        """See `Order.reach`."""
        return self._reach

    def trim(self, below: int) -> None:
        """See `Order.trim`."""
        self._send_if_open(link.Trim(below))

    def close(self) -> None:
        """See `Order.close`."""
        self._disconnect()
        self._readable.close()

    # The socket.

    def _connect(self) -> None:
        """Connect to the child and ask it to follow, if it is there."""
        connecting = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connecting.setblocking(False)
            connecting.connect(str(self._path))
        except OSError:
            connecting.close()
            return
        self._socket = connecting
        self._readable.register(connecting, select.EPOLLIN)
        name, created_ns = self._identity or (None, 0)
        self._send(link.Open(self._after, name, created_ns))

    def _disconnect(self) -> None:
        self._is_open = False
        self._unsent.clear()
        self._splitter = link.Splitter()
        if self._socket:
            self._readable.unregister(self._socket)
            self._socket.close()
            self._socket = None

    def _send_if_open(self, frame: link.ToChild) -> None:
        if self._is_open and len(self._unsent) <= _MOST_UNSENT:
            self._send(frame)

    def _send(self, frame: link.ToChild) -> None:
        self._unsent += link.encode_frame(frame)
        self._flush()

    def _flush(self) -> None:
        """Send what the child can take now; `fileno` is also readable when it can take more."""
        if not self._socket or not self._unsent:
            return
        try:
            sent = self._socket.send(self._unsent)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._disconnect()
            return
        del self._unsent[:sent]
        events = select.EPOLLIN | select.EPOLLOUT if self._unsent else select.EPOLLIN
        self._readable.modify(self._socket, events)

    def _receive(self) -> None:
        """Read what the child has sent, at most `_READ_TURN_BYTES`."""
        left = _READ_TURN_BYTES
        while self._socket and left > 0:
            try:
                data = self._socket.recv(_READ_BYTES)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._disconnect()
                return
            left -= len(data)
            try:
                for body in self._splitter.feed(data):
                    self._handle(link.decode_from_child(body))
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
        """Follow no longer; but once it was open, go on trying to reach an order that cannot be reached."""
        if isinstance(error, OrderUnreachable) and not self._is_opening:
            self._disconnect()
        else:
            self._failure = error
