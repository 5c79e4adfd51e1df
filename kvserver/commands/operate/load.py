"""Requests by several connections, as fast as they are answered, by one thread.

The client of `kvserver.client` is made for programs of users: it would measure itself. This one writes prepared
requests, and reads as much of an answer as it needs to find its end.
"""

from __future__ import annotations

import random
import re
import selectors
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from kvserver.client.transport.address import Address

_PIECE: Final = 1 << 18
_CONNECT_S: Final = 10.0
_SILENCE_S: Final = 10.0
_TELL_S: Final = 0.1
_STATUS: Final = re.compile(rb"HTTP/1\.1 (\d{3}) ")
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class LoadFailed(Exception):
    """The measurement cannot continue; the message says why."""


@dataclass
class Measured:
    """What a measurement came to. Latencies are in seconds."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)

    def quantile(self, share: float) -> float:
        """Return the latency that `share` of the requests did not exceed; 0 without requests."""
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0

    @property
    def rate(self) -> float:
        """Requests a second."""
        return len(self.latencies) / self.seconds if self.seconds else 0.0


def answer_end(received: bytes | bytearray) -> tuple[int, int] | None:
    """Return the status of an answer and where it ends, or None while its head is not whole. Raises `LoadFailed`."""
    head_end = received.find(b"\r\n\r\n")
    if head_end < 0:
        return None
    status, length = _STATUS.match(received), _LENGTH.search(received, 0, head_end)
    if status is None or (length is None and status[1] not in (b"204", b"304")):
        raise LoadFailed("what answers is no kvserver")
    return int(status[1]), head_end + 4 + (int(length[1]) if length else 0)


class _Connection:
    """A connection with one request under way. `_left`: bytes of its answer to come, -1 while the head is not whole."""

    def __init__(self, address: Address) -> None:
        try:
            self.sock = socket.create_connection((address.host, address.port), _CONNECT_S)
        except OSError as error:
            raise LoadFailed(f"{address.url} cannot be reached: {error.strerror or error}") from None
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.setblocking(False)
        self._head, self._left = bytearray(), -1
        self._status = 0
        self._unsent = memoryview(b"")
        self.sent_at = 0.0

    def send(self, request: bytes) -> None:
        """Begin a request."""
        self._head.clear()
        self._left = -1
        self.sent_at = time.perf_counter()
        self._unsent = memoryview(request)
        self.go_on()

    def go_on(self) -> bool:
        """Send what is left of the request; return whether that was all."""
        while self._unsent:
            try:
                self._unsent = self._unsent[self.sock.send(self._unsent) :]
            except BlockingIOError:
                return False
        return True

    def receive(self) -> int | None:
        """Read what has come; return the status of the answer if it is whole. Raises `LoadFailed`."""
        try:
            data = self.sock.recv(_PIECE)
        except BlockingIOError:
            return None
        if not data:
            raise LoadFailed("the server closed a connection")
        if self._left >= 0:
            self._left -= len(data)
        else:
            self._head += data
            if (ended := answer_end(self._head)) is not None:
                self._status, end = ended
                self._left = end - len(self._head)
        return self._status if self._left == 0 else None


def measure(
    address: Address,
    requests: Sequence[bytes],
    connections: int,
    seconds: float,
    tell: Callable[[float], object] = lambda seconds: None,
) -> Measured:
    """Send `requests` at random over `connections` connections for `seconds`, at least until there is an answer.

    Returns the result, when no request is in flight any more. `tell` is called with the seconds that have passed,
    some times a second. Raises `LoadFailed`.
    """
    chosen = random.Random(1)
    with selectors.DefaultSelector() as selector:
        opened: list[_Connection] = []
        try:
            opened.extend(_Connection(address) for _ in range(connections))
            for connection in opened:
                connection.send(chosen.choice(requests))
                selector.register(connection.sock, selectors.EVENT_READ | selectors.EVENT_WRITE, connection)
            run = _LoadRun(selector, lambda: chosen.choice(requests), seconds, tell)
            run.measure()
            run.drain()
        except OSError as error:
            raise LoadFailed(f"a connection broke: {error.strerror or error}") from None
        finally:
            for connection in opened:
                connection.sock.close()
    return run.measured


class _LoadRun:
    """Connections, each with a request under way, and what came of those that were answered."""

    def __init__(
        self,
        selector: selectors.BaseSelector,
        next_request: Callable[[], bytes],
        seconds: float,
        tell: Callable[[float], object],
    ) -> None:
        self.measured = Measured()
        self._selector, self._next_request, self._seconds, self._tell = selector, next_request, seconds, tell
        self._begun = self._heard_at = self._told_at = time.perf_counter()

    def measure(self) -> None:
        """Send the next request wherever one is answered, until the time is over."""
        while (now := time.perf_counter()) - self._begun < self._seconds or not self.measured.latencies:
            if now - self._told_at > _TELL_S:
                self._told_at = now
                self._tell(now - self._begun)
            for connection, status in self._answers():
                self.measured.latencies.append(self._heard_at - connection.sent_at)
                self.measured.statuses[status] = self.measured.statuses.get(status, 0) + 1
                connection.send(self._next_request())
                if not connection.go_on():
                    self._selector.modify(connection.sock, selectors.EVENT_READ | selectors.EVENT_WRITE, connection)
        self.measured.seconds = time.perf_counter() - self._begun

    def drain(self) -> None:
        """Wait for the answers to all requests that are under way."""
        while self._selector.get_map():
            for connection, _ in self._answers():
                self._selector.unregister(connection.sock)

    def _answers(self) -> Iterator[tuple[_Connection, int]]:
        """Send and read what can be, and yield the connections that got an answer, with its status."""
        for key, events in self._selector.select(_TELL_S):
            connection: _Connection = key.data
            if events & selectors.EVENT_WRITE and connection.go_on():
                self._selector.modify(connection.sock, selectors.EVENT_READ, connection)
            if events & selectors.EVENT_READ and (status := connection.receive()) is not None:
                self._heard_at = time.perf_counter()
                yield connection, status
        if time.perf_counter() - self._heard_at > _SILENCE_S:
            raise LoadFailed(f"no answer for {_SILENCE_S:g} s")
