"""A WebSocket connection that nothing a client does can harm: the guards around gevent-websocket.

gevent-websocket's worker and handler host the connection, its frame layer is replaced: it accepts unmasked and endless
frames, loses close codes, and lets two greenlets write at once. Here

- `kvserver.gateway.transport.frames` parses and builds the frames;
- one greenlet reads (whoever calls `receive`) and one writes: everything goes through its outbox, pongs and closes
  too, and when that is empty it asks the connection's `source` for more, so a slow client has nothing queued;
- `ConnectionMonitor` looks at all connections from outside: it pings, and drops who does not answer or does not read;
- `breathe` lets others run: reading from a socket that always has data never switches greenlets by itself.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

import gevent  # type: ignore[import-untyped]
from gevent import socket as gsocket
from gevent.event import Event  # type: ignore[import-untyped]
from geventwebsocket.exceptions import WebSocketError  # type: ignore[import-untyped]
from geventwebsocket.websocket import WebSocket as _WebSocket  # type: ignore[import-untyped]
from websockets.frames import Opcode

from kvserver.gateway.transport.frames import Ending, Framing, Pong, frame
from kvserver.gateway.transport.send_budget import BudgetCharge, SendBudget
from kvserver.http.send_queue import unsent

PING_PAYLOAD: Final = b"\x01\x02\x03"

_RECEIVE_BYTES: Final = 64 << 10
_OUTBOX_BYTES: Final = 64 << 10
_UNSENT_BYTES: Final = 128 << 10  # that the kernel takes for a client, which it doubles; left alone it takes 4 MiB
_LONGEST_TURN_S: Final = 0.010
SLOW_BYTES_S: Final = 16 << 10
"""Who takes less than so many bytes a second, while much is owed, is dropped to make room ..."""
SLOW_S: Final = 5.0
"""... which is looked at over so long; ..."""
STILL_S: Final = 2.0
"""... so is who takes nothing at all for so long."""


@dataclass(frozen=True)
class ConnectionLimits:
    """What a connection may do.

    Attributes:
        max_message: bytes of a message from the client; a longer one is closed with 1009.
        handshake_s: time for the whole request head.
        ping_s: how often all clients are pinged.
        silence_s: who sends nothing, not even pongs, for so long is dropped.
        stall_s: who takes nothing of what is being written for so long is dropped.
        linger_s: how long a closing connection waits for the peer.
        intake_bytes_s: what a client sends beyond so many bytes a second waits until it is read; 0: nothing does.
    """

    max_message: int = 64 << 10
    handshake_s: float = 10.0
    ping_s: float = 20.0
    silence_s: float = 60.0
    stall_s: float = 20.0
    linger_s: float = 1.0
    intake_bytes_s: int = 0


class _LoopClock:
    """When the event loop last looked for I/O."""

    def __init__(self) -> None:
        self._watcher: Any = None
        self._hub: Any = None
        self._seen_at = 0.0

    def age(self) -> float:
        """Seconds since then."""
        hub = gevent.get_hub()
        if hub is not self._hub:
            self._hub, self._watcher = hub, hub.loop.check(ref=False)
            self._watcher.start(self._see)
            self._see()
        return time.monotonic() - self._seen_at

    def _see(self) -> None:
        self._seen_at = time.monotonic()


_turns = _LoopClock()


def breathe() -> None:
    """Let other greenlets run if the event loop has had no turn for 10 ms.

    `sleep(0)` would not do: it runs what is ready, but looks for no I/O.
    """
    if _turns.age() > _LONGEST_TURN_S:
        gevent.sleep(0.001)


class _ThrottledReader:
    """How fast is read what a client sends: where nobody wants it, a flood should cost next to nothing.

    Attributes:
        most: bytes to take at a time.
    """

    def __init__(self, bytes_s: int) -> None:
        self.most = max(min(_RECEIVE_BYTES, bytes_s // 16), 1) if bytes_s else _RECEIVE_BYTES
        self._bytes_s = bytes_s
        self._paid_at = 0.0  # what was taken until now is within the limit from then on

    def wait(self) -> None:
        """Wait until more may be taken; the bytes of a second come at once."""
        early = self._paid_at - time.monotonic()
        if early > 0:
            gevent.sleep(early)

    def note(self, size: int) -> None:
        """So many bytes were taken."""
        if self._bytes_s:
            self._paid_at = max(self._paid_at, time.monotonic() - 1.0) + size / self._bytes_s


class Piece(NamedTuple):
    """Bytes of frames to write. `ends`: with a whole one; else the source gives the rest next, and nothing may come
    between."""

    data: bytes | memoryview
    ends: bool = True


class Outlet:
    """The sending side of a connection: one greenlet writes, and who looks from outside sees whether it gets on.

    Attributes:
        heard_at: when the client last gave a sign of life, by the monotonic clock.
        charge: what the client has not taken.
        is_slow: it takes next to nothing of what is being written, as `is_lost` saw it.
    """

    def __init__(self, connection: gsocket.socket, limits: ConnectionLimits, budget: SendBudget) -> None:
        self.heard_at = time.monotonic()
        self.charge, self.is_slow, self._lags = BudgetCharge(budget), False, False
        self._written = 0
        self._seen: tuple[float, int] | None = None  # when something was being written, and what had been taken then
        self._socket, self._limits = connection, limits
        self._open = True
        self._unsent: memoryview | None = None  # what is being written
        self._whole = b""  # of which it is a view
        self._is_part = False  # it is a view of something larger, which others hold
        self._stalled_at: float | None = None  # since when a write has made no progress
        self._queued_before = 0
        if connection.family != gsocket.AF_UNIX:
            connection.setsockopt(gsocket.IPPROTO_TCP, gsocket.TCP_NODELAY, 1)
            connection.setsockopt(gsocket.SOL_SOCKET, gsocket.SO_SNDBUF, _UNSENT_BYTES)

    def put(self, data: bytes | memoryview) -> None:
        """Take what `send_all` is to write next: nothing else needs to hold it meanwhile."""
        self._whole = data if isinstance(data, bytes) else b""
        self._unsent = memoryview(data)
        self._is_part = isinstance(data, memoryview)

    @property
    def loaded(self) -> bool:
        """Whether there is something to write."""
        return self._unsent is not None

    def send_all(self) -> None:
        """Write what was put, or what is written until `shut`. Raises `OSError`."""
        self._stalled_at = time.monotonic()
        try:
            while self._unsent and self._open:
                sent = self._send_some()
                self._unsent = self._unsent[sent:]
                self._written += sent
                self._stalled_at = time.monotonic()
                if self._unsent:
                    self._charge_unsent()
                breathe()
        finally:
            self.drop()

    def drop(self) -> None:
        """Let go of what was not written."""
        self._unsent, self._whole, self._is_part, self._stalled_at = None, b"", False, None
        if self.charge.size:
            self.charge.set_bytes(0)

    def _send_some(self) -> int:
        with contextlib.suppress(BlockingIOError):
            return int(self._socket.send(self._unsent, 0, 0.0))
        self._charge_unsent()
        return int(self._socket.send(self._unsent))

    def _charge_unsent(self) -> None:
        """The client does not take all at once."""
        if self._is_part:  # what waits for it must not pin what it is a part of
            self._unsent, self._is_part = memoryview(bytes(self._unsent or b"")), False
            self.charge.set_bytes(len(self._unsent))
        elif not self.charge.size:
            self.charge.set_shared(self._whole)

    def shut(self) -> None:
        """End the connection at once."""
        self._open = False
        with contextlib.suppress(OSError):  # the client was faster
            self._socket.shutdown(gsocket.SHUT_RDWR)

    def is_lost(self, now: float, silence_s: float | None = None) -> bool:
        """Whether the client takes nothing of what is being written; if nothing is, whether it has given no sign of
        life for `silence_s`. To be asked again and again."""
        if not self._open:
            return False
        queued = unsent(self._socket.fileno())
        if 0 < queued < self._queued_before:  # the kernel takes more only when much of what it has is gone
            self.heard_at = now
            if self._stalled_at is not None:
                self._stalled_at = now
        self._queued_before = queued
        self.is_slow = self._takes_little(now, self._written - queued)
        if self._stalled_at is None:
            return silence_s is not None and now - self.heard_at > silence_s
        return now - self._stalled_at > self._limits.stall_s

    def _takes_little(self, now: float, taken: int) -> bool:
        """`taken`: bytes in all, of what was written."""
        if self._stalled_at is None:
            self._seen, self._lags = None, False
            return False
        if self._seen is None:
            self._seen = now, taken
        since, before = self._seen
        if now - since >= SLOW_S:
            self._lags = taken - before < SLOW_BYTES_S * (now - since)
            self._seen = now, taken
        return self._lags or now - self._stalled_at >= STILL_S


class WebSocket(_WebSocket):  # type: ignore[misc]
    """One connection, after the 101.

    Attributes:
        peer: the client's address, `ip:port`.
        source: what to write next when nothing else waits, or None (then `wake` when there is more). Called in the
            writing greenlet, may switch. Where it was to give the rest of a frame, None ends the connection.
        on_answer: called when the client answers a ping of ours.
        farewell: what to write before a close that the server begins; it is given the reason.
    """

    def __init__(
        self,
        connection: gsocket.socket,
        peer: str,
        received: bytes,
        limits: ConnectionLimits,
        budget: SendBudget | None = None,
    ) -> None:
        # Not calling the base class: it would set up the frame layer that this class replaces.
        self.environ, self.stream, self.handler = None, None, None
        self.closed = False
        self.peer = peer
        self.source: Callable[[], Piece | None] | None = None
        self.on_answer: Callable[[], None] | None = None
        self.farewell: Callable[[Ending], bytes] | None = None
        self._socket, self._limits = connection, limits
        self._framing = Framing(limits.max_message)
        self._intake = _ThrottledReader(limits.intake_bytes_s)
        self._framing.feed(received)
        self._outbox: deque[bytes] = deque()
        self._outbox_bytes = 0
        self._within = False  # a frame of the source's is not whole yet
        self._wake, self._room = Event(), Event()
        self._unanswered = 0
        self._outlet = Outlet(connection, limits, budget or SendBudget())
        self._waiting = BudgetCharge(self._outlet.charge.budget)  # in the outbox
        self._timer: gevent.Greenlet | None = None
        self._writer = gevent.spawn(self._write)

    def __del__(self) -> None:
        """Nothing to do; the base class's would send a close frame whenever an object is collected."""

    # Reading

    def receive(self) -> str | bytes | None:
        """The next message; None when there will be none. Only one greenlet may call this."""
        while True:
            breathe()
            received = self._framing.next()
            self._post()
            if isinstance(received, str | bytes):
                return received
            if isinstance(received, Pong):
                self._pong(received.payload)
            has_ended = received is None and (self._framing.over or not self._read())
            if has_ended or not self._wait_for_room():
                return None

    def _read(self) -> bool:
        """Take what the client sent; False if it is gone."""
        self._intake.wait()
        try:
            data = self._socket.recv(self._intake.most)
        except OSError:
            data = b""
        self._intake.note(len(data))
        self._outlet.heard_at = time.monotonic()
        self._framing.feed(data)
        return bool(data)

    def _pong(self, payload: bytes) -> None:
        if payload == PING_PAYLOAD and self._unanswered:
            self._unanswered = 0
            if self.on_answer is not None:
                self.on_answer()

    # Writing

    def send(self, message: str | bytes, binary: bool | None = None) -> None:
        """Write a message, after what waits already; blocks while too much waits.

        Raises `WebSocketError` if the connection is closing.
        """
        if self.closed or self._framing.closing:
            raise WebSocketError("the connection is closed")
        payload = message.encode() if isinstance(message, str) else message
        is_binary = isinstance(message, bytes) if binary is None else binary
        self._put(frame(Opcode.BINARY if is_binary else Opcode.TEXT, payload))
        self._wait_for_room()

    def ping(self) -> None:
        """Ask the client for a sign of life. Does not block."""
        self._unanswered += 1
        self._framing.ping(PING_PAYLOAD)
        self._post()

    def wake(self) -> None:
        """`source` may have more. Does not block."""
        self._wake.set()

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Begin to close; `receive` returns None when the peer is gone, or shortly after. Does not block."""
        if not self._framing.closing:
            self._framing.close(code, reason)
            self._post()
            self._timer = gevent.spawn_later(self._limits.linger_s, self.abort)

    def close_with_farewell(self, code: int, reason: str, why: Ending) -> None:
        """`close`, with the farewell before. Does not block."""
        if self.farewell is not None and not self._framing.closing:
            self._put(self.farewell(why))
        self.close(code, reason)

    @property
    def is_ending(self) -> bool:
        """Whether nothing more of `source` will be written, but for what it is about to give."""
        return self.closed or self._framing.closing

    def abort(self) -> None:
        """End the connection at once. Does not block."""
        if not self.closed:
            self.closed = True
            self._outlet.shut()
            self._wake.set()
            self._room.set()

    def finish(self, code: int = 1000) -> None:
        """Close if nobody did, wait for the peer for about a second, and release everything.

        Half-closing and reading on until the peer is gone makes sure that the close frame arrives: closing a socket
        with unread input resets the connection.
        """
        self.close(code)
        with gevent.Timeout(self._limits.linger_s, False), contextlib.suppress(OSError):
            self._writer.join()
            while not self.closed and self._socket.recv(_RECEIVE_BYTES):
                breathe()
        self.discard()

    def discard(self) -> None:
        """End the connection at once, and release everything."""
        self.abort()
        self._writer.join()
        self._release()

    def _release(self) -> None:
        """Hold nothing any more, lest the collector has to find what refers to each other here."""
        self.source = self.on_answer = self.farewell = None
        self._framing.release()
        self._outbox.clear()
        self._waiting.set_bytes(0)
        self._outlet.drop()
        if self._timer is not None:
            self._timer.kill(block=False)
        del self._writer, self._timer

    def _post(self) -> None:
        """Hand to the writer what the frame layer wants sent."""
        data = self._framing.output()
        if data or self._framing.closing:
            self._put(data)

    def _put(self, data: bytes) -> None:
        if data:
            self._outbox.append(data)
            self._outbox_bytes += len(data)
            self._waiting.set_bytes(self._outbox_bytes)
        self._wake.set()

    def _wait_for_room(self) -> bool:
        """Wait until the outbox is short enough to take more; False if the connection is gone."""
        while self._outbox_bytes > _OUTBOX_BYTES and not self.closed:
            self._room.clear()
            self._room.wait()
        return not self.closed

    def _write(self) -> None:
        """The writing greenlet."""
        try:
            while not self.closed:
                self._wake.clear()
                self._fetch()
                if self._outlet.loaded:
                    self._send_all()
                elif self._framing.closing and not self._outbox:
                    self._socket.shutdown(gsocket.SHUT_WR)
                    return
                elif not self._outbox:
                    self._wake.wait()
        except OSError:
            self.abort()

    def _fetch(self) -> None:
        """What to write next, if there is anything."""
        if not self._within:
            if self._outbox:
                self._outlet.put(b"".join(self._outbox))
                self._outbox.clear()
                return
            if self.source is None or self._framing.closing:
                return
        assert self.source is not None
        piece = self.source()
        if piece is not None:
            self._outlet.put(piece.data)
            self._within = not piece.ends
        elif self._within:
            self.abort()

    def _send_all(self) -> None:
        self._outlet.send_all()
        if self._outbox_bytes:
            self._outbox_bytes = sum(map(len, self._outbox))
            self._waiting.set_bytes(self._outbox_bytes)
            self._room.set()

    # Looked at from outside

    def check(self, now: float) -> None:
        """Drop the connection if the client neither reads nor answers. Does not block.

        A ping waits behind what the client has not read yet, so while there is such a thing reading is a sign of life.
        """
        if self.closed:
            return
        if self._outlet.is_lost(now, self._limits.silence_s):
            self.abort()

    @property
    def budget(self) -> SendBudget:
        """The budget that its client's charge is part of."""
        return self._outlet.charge.budget

    @property
    def slow_bytes(self) -> int:
        """Bytes that its client owes, if that takes next to nothing of them; else 0."""
        return self._outlet.charge.size if self._outlet.is_slow else 0


class Watchable(Protocol):
    """A connection, as its monitor sees it. Nothing of this blocks."""

    @property
    def budget(self) -> SendBudget:
        """The budget that its client's charge is part of."""

    @property
    def slow_bytes(self) -> int:
        """Bytes that its client owes, if that takes next to nothing of them; else 0."""

    def check(self, now: float) -> None:
        """Drop it if the client is gone."""

    def ping(self) -> None:
        """Ask the client for a sign of life."""

    def close_with_farewell(self, code: int, reason: str, why: Ending) -> None:
        """Say why, and close."""

    def abort(self) -> None:
        """End it at once."""


class ConnectionMonitor:
    """Looks after all connections of a process.

    Attributes:
        budget: what their clients set_bytes.
    """

    def __init__(self, limits: ConnectionLimits, budget: SendBudget | None = None) -> None:
        self.budget = budget or SendBudget()
        self._limits = limits
        self._open: set[Watchable] = set()

    def __len__(self) -> int:
        return len(self._open)

    def add(self, websocket: Watchable) -> None:
        """Look after `websocket` from now on."""
        self._open.add(websocket)

    def remove(self, websocket: Watchable) -> None:
        """It is gone."""
        self._open.discard(websocket)

    def run(self) -> None:
        """Check all connections again and again, and ping them all together every `ping_s`. Never returns.

        Together, because their answers, each of which may be shown to all of them, then travel together too.
        """
        pause = min(1.0, self._limits.ping_s, self._limits.stall_s / 4, self._limits.silence_s / 4)
        ping_at = time.monotonic() + self._limits.ping_s
        while True:
            gevent.sleep(pause)
            now = time.monotonic()
            is_time_to_ping = now >= ping_at
            if is_time_to_ping:
                ping_at = now + self._limits.ping_s
            for websocket in list(self._open):
                websocket.check(now)
                if is_time_to_ping:
                    websocket.ping()
                breathe()
            self.shed_slow_clients()

    def shed_slow_clients(self) -> None:
        """Where much is owed, by one address or by all, end connections of those who take next to nothing."""
        given_back = 0
        for part in self.budget.high_parts():
            given_back += self._shed_slow_clients(part, [kept for kept in self._open if kept.budget is part], 0)
        if self.budget.is_high_without(given_back):
            self._shed_slow_clients(self.budget, list(self._open), given_back)

    def _shed_slow_clients(self, budget: SendBudget, connections: list[Watchable], given_back: int) -> int:
        """End slow ones of `connections`, the largest budget first, until enough of `budget` is left; returns the bytes
        that they give back when their greenlets run, with `given_back`."""
        for websocket in sorted(connections, key=lambda kept: kept.slow_bytes, reverse=True):
            charge = websocket.slow_bytes
            if not charge or not budget.is_high_without(given_back):
                break
            websocket.abort()
            given_back += charge
        return given_back

    def close_all(self, code: int, reason: str, why: Ending, within_s: float) -> None:
        """Close every connection, spread over at most `within_s` seconds so that not all clients return at once."""
        waiting = list(self._open)
        pause = min(0.01, within_s / max(1, len(waiting)))
        due_at = time.monotonic()
        for websocket in waiting:
            websocket.close_with_farewell(code, reason, why)
            due_at += pause
            early = due_at - time.monotonic()
            if early > 0:  # however long each takes, and a timer oversleeps: the last is in time
                gevent.sleep(early)
            else:
                breathe()

    def abort_all(self) -> None:
        """End every connection that is still there. Does not block."""
        for websocket in list(self._open):
            websocket.abort()
