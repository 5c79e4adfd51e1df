"""A WebSocket connection that nothing a client does can harm: the guards around gevent-websocket.

gevent-websocket's worker and handler host the connection. Its frame layer is replaced: it accepts unmasked and endless
frames, loses close codes, and lets two greenlets write at once. Here

- `kvserver.gateway.transport.frames` parses and builds the frames;
- one greenlet reads (the one that calls `receive`) and one writes: everything goes through its outbox, pongs and closes
  too, and when that is empty it asks the connection's `source` for more, so a slow client has nothing queued;
- `kvserver.gateway.transport.monitor` pings all connections from outside, and drops clients that neither answer nor
  read.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable
from typing import Final

import gevent  # type: ignore[import-untyped]
from gevent import socket as gsocket
from gevent.event import Event  # type: ignore[import-untyped]
from geventwebsocket.exceptions import WebSocketError  # type: ignore[import-untyped]
from geventwebsocket.websocket import WebSocket as _WebSocket  # type: ignore[import-untyped]
from websockets.frames import Opcode

from kvserver.gateway.transport.frames import Ending, Framing, Piece, Pong, frame
from kvserver.gateway.transport.limits import ConnectionLimits
from kvserver.gateway.transport.outlet import Outlet
from kvserver.gateway.transport.scheduling import breathe
from kvserver.gateway.transport.send_budget import BudgetCharge, SendBudget

PING_PAYLOAD: Final = b"\x01\x02\x03"

_RECEIVE_BYTES: Final = 64 << 10
_OUTBOX_BYTES: Final = 64 << 10


class _ThrottledReader:
    """Reads what a client sends, at a limited rate: where nothing is expected of it, a flood costs next to nothing."""

    def __init__(self, connection: gsocket.socket, bytes_s: int) -> None:
        self._socket, self._bytes_s = connection, bytes_s
        self._portion = max(min(_RECEIVE_BYTES, bytes_s // 16), 1) if bytes_s else _RECEIVE_BYTES
        self._paid_at = 0.0  # what was read until now is within the limit from then on

    def read(self) -> bytes:
        """Read the next bytes, empty if the client is gone. Waits for the rate, except for the bytes of one second."""
        early = self._paid_at - time.monotonic()
        if early > 0:
            gevent.sleep(early)
        try:
            data: bytes = self._socket.recv(self._portion)
        except OSError:
            data = b""
        if self._bytes_s:
            self._paid_at = max(self._paid_at, time.monotonic() - 1.0) + len(data) / self._bytes_s
        return data

    def drain(self) -> bool:
        """Read and drop some bytes, at any rate; False at the end of the stream. Raises `OSError`."""
        return bool(self._socket.recv(_RECEIVE_BYTES))


class _Outbox:
    """Frames that wait for the writing greenlet: messages, pings, pongs, closes.

    Attributes:
        size: their bytes, with those that are being written.
        room: set when it may have become smaller.
    """

    def __init__(self, budget: SendBudget) -> None:
        self.size, self.room = 0, Event()
        self._frames: deque[bytes] = deque()
        self._charge = BudgetCharge(budget)

    def append(self, data: bytes) -> None:
        """Add frames, charged to the client's budget."""
        self._frames.append(data)
        self.size += len(data)
        self._charge.set_bytes(self.size)

    def take_all(self) -> bytes:
        """Remove all frames, to be written now; they count until `note_written`."""
        data = b"".join(self._frames)
        self._frames.clear()
        return data

    def note_written(self) -> None:
        """Stop counting what was taken."""
        self.size = sum(map(len, self._frames))
        self._charge.set_bytes(self.size)
        self.room.set()

    def clear(self) -> None:
        """Drop all frames."""
        self._frames.clear()
        self._charge.set_bytes(0)


class WebSocket(_WebSocket):  # type: ignore[misc]
    """One connection, after the 101.

    Attributes:
        peer: the client's address, `ip:port`.
        source: returns what to write next when nothing else waits, or None (then call `wake` when there is more). It is
            called in the writing greenlet, and may switch. Where it owes the rest of a frame, None ends the connection.
        on_answer: called when the client answers a ping of ours.
        farewell: makes what to write before a close that the server begins; it is given the reason.
        outlet: the sending side.
    """

    # The base class's; it is not initialized, since that would set up the frame layer that this class replaces.
    environ, stream, handler = None, None, None

    def __init__(
        self,
        connection: gsocket.socket,
        peer: str,
        received: bytes,
        limits: ConnectionLimits,
        budget: SendBudget | None = None,
    ) -> None:
        """Serve `connection`, of which `received` was read already. Spawns the writing greenlet.

        Args:
            budget: of the client's address; None: one of its own.
        """
        self.closed = False
        self.peer = peer
        self.source: Callable[[], Piece | None] | None = None
        self.on_answer: Callable[[], None] | None = None
        self.farewell: Callable[[Ending], bytes] | None = None
        self._limits = limits
        self._framing = Framing(limits.max_message)
        self._framing.feed(received)
        self._reader = _ThrottledReader(connection, limits.intake_bytes_s)
        self.outlet = Outlet(connection, limits, budget or SendBudget())
        self._outbox = _Outbox(self.outlet.budget)
        self._is_within_frame = False  # a frame of the source's is not whole yet
        self._wake = Event()
        self._unanswered = 0
        self._timer: gevent.Greenlet | None = None
        self._writer = gevent.spawn(self._run_writer)

    def __del__(self) -> None:
        """Do nothing; the base class's would send a close frame whenever an object is collected."""

    # Reading

    def receive(self) -> str | bytes | None:
        """Return the next message; None when there will be none. Only one greenlet may call this."""
        while True:
            breathe()
            received = self._framing.next()
            self._queue_control_frames()
            if isinstance(received, str | bytes):
                return received
            if isinstance(received, Pong):
                self._note_pong(received.payload)
            has_ended = received is None and (self._framing.over or not self._read_some())
            if has_ended or not self._wait_for_room():
                return None

    def _read_some(self) -> bool:
        """Take what the client sent; False if it is gone."""
        data = self._reader.read()
        self.outlet.heard_at = time.monotonic()
        self._framing.feed(data)
        return bool(data)

    def _note_pong(self, payload: bytes) -> None:
        if payload == PING_PAYLOAD and self._unanswered:
            self._unanswered = 0
            if self.on_answer is not None:
                self.on_answer()

    # Writing

    def send(self, message: str | bytes, binary: bool | None = None) -> None:
        """Write a message after what waits already; blocks while too much waits.

        Raises `WebSocketError` if the connection is closing.
        """
        if self.closed or self._framing.closing:
            raise WebSocketError("the connection is closed")
        payload = message.encode() if isinstance(message, str) else message
        is_binary = isinstance(message, bytes) if binary is None else binary
        self._queue(frame(Opcode.BINARY if is_binary else Opcode.TEXT, payload))
        self._wait_for_room()

    def ping(self) -> None:
        """Ask the client for a sign of life. Does not block."""
        self._unanswered += 1
        self._framing.ping(PING_PAYLOAD)
        self._queue_control_frames()

    def wake(self) -> None:
        """Have the writer ask `source` again. Does not block."""
        self._wake.set()

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Begin to close; `receive` returns None when the peer is gone, or shortly after. Does not block."""
        if not self._framing.closing:
            self._framing.close(code, reason)
            self._queue_control_frames()
            self._timer = gevent.spawn_later(self._limits.linger_s, self.abort)

    def close_with_farewell(self, code: int, reason: str, why: Ending) -> None:
        """Queue the farewell, then `close`. Does not block."""
        if self.farewell is not None and not self._framing.closing:
            self._queue(self.farewell(why))
        self.close(code, reason)

    @property
    def is_ending(self) -> bool:
        """Whether nothing more of `source` will be written, but for what it is about to give."""
        return self.closed or self._framing.closing

    def abort(self) -> None:
        """End the connection at once. Does not block."""
        if not self.closed:
            self.closed = True
            self.outlet.shut_down()
            self._wake.set()
            self._outbox.room.set()

    def close_and_wait(self, code: int = 1000) -> None:
        """Close unless that has begun, wait for the peer for about a second, and release everything.

        Half-closing and reading on until the peer is gone makes sure that the close frame arrives: closing a socket
        with unread input resets the connection.
        """
        self.close(code)
        with gevent.Timeout(self._limits.linger_s, False), contextlib.suppress(OSError):
            self._writer.join()
            while not self.closed and self._reader.drain():
                breathe()
        self.discard()

    def discard(self) -> None:
        """End the connection at once, and release everything. Blocks until the writer has ended."""
        self.abort()
        self._writer.join()
        self._release_all()

    def _release_all(self) -> None:
        """Break the circles between these objects, which otherwise the garbage collector would have to find."""
        self.source = self.on_answer = self.farewell = None
        self._framing.release()
        self._outbox.clear()
        self.outlet.discard_unsent()
        if self._timer is not None:
            self._timer.kill(block=False)
        del self._writer, self._timer

    def _queue_control_frames(self) -> None:
        """Queue the pongs and closes that the frame layer wants sent."""
        data = self._framing.output()
        if data or self._framing.closing:
            self._queue(data)

    def _queue(self, data: bytes) -> None:
        """Have the writer write `data`, if it is anything, and look whether it is to end."""
        if data:
            self._outbox.append(data)
        self._wake.set()

    def _wait_for_room(self) -> bool:
        """Wait until the outbox is short enough to take more; False if the connection is gone."""
        while self._outbox.size > _OUTBOX_BYTES and not self.closed:
            self._outbox.room.clear()
            self._outbox.room.wait()
        return not self.closed

    def _run_writer(self) -> None:
        """Write until the connection is closed: the body of the writing greenlet."""
        try:
            while not self.closed:
                self._wake.clear()
                self._load_next()
                if self.outlet.is_loaded:
                    self.outlet.write_loaded()
                    if self._outbox.size:
                        self._outbox.note_written()
                elif self._outbox.size:
                    pass  # queued while the source was asked
                elif self._framing.closing:
                    self.outlet.end_writing()
                    return
                else:
                    self._wake.wait()
        except OSError:
            self.abort()

    def _load_next(self) -> None:
        """Load the outlet with what to write next, if there is anything: the outbox first, then the source.

        Within a frame of the source's only the source is asked: nothing may come between the pieces of a frame.
        """
        if not self._is_within_frame:
            if self._outbox.size:
                self.outlet.load(self._outbox.take_all())
                return
            if self.source is None or self._framing.closing:
                return
        assert self.source is not None
        piece = self.source()
        if piece is not None:
            self.outlet.load(piece.data)
            self._is_within_frame = not piece.ends
        elif self._is_within_frame:
            self.abort()

    # What the monitor asks

    def drop_if_lost(self, now: float) -> None:
        """End the connection if the client neither reads nor answers. Does not block.

        A ping waits behind what the client has not read yet, so while there is such a thing reading is a sign of life.
        """
        if not self.closed and self.outlet.is_lost(now, self._limits.silence_s):
            self.abort()
