"""An HTTP answer that goes on: what carries `/v1/feed` where there is no WebSocket."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, Final

import gevent  # type: ignore[import-untyped]
from gevent import socket as gsocket
from gevent.event import Event  # type: ignore[import-untyped]

from kvserver.gateway.transport.frames import Ending
from kvserver.gateway.transport.send_budget import SendBudget
from kvserver.gateway.transport.websocket import ConnectionLimits, Outlet, breathe

_RECEIVE_BYTES: Final = 16 << 10


class Stream:
    """One answer, after its head. The greenlet that calls `run` writes.

    Attributes:
        peer: the client's address, `ip:port`.
        written: bytes.
        source: what to write next; None: nothing now (then `wake` when there is more). May switch.
        farewell: what to write before an end that the server makes; it is given the reason.
    """

    def __init__(
        self, connection: gsocket.socket, peer: str, limits: ConnectionLimits, budget: SendBudget | None = None
    ) -> None:
        self.peer, self.written = peer, 0
        self.source: Callable[[], bytes | None] = lambda: None
        self.farewell: Callable[[Ending], bytes] = lambda why: b""
        self._socket, self._limits = connection, limits
        self._outlet = Outlet(connection, limits, budget or SendBudget())
        self._wake = Event()
        self._ending = self._gone = False
        self._why: Ending | None = None
        if connection.family != gsocket.AF_UNIX:
            # Nobody has to answer on a stream, so a client that vanished shows only by what it does not take.
            timeout_ms = int(limits.stall_s * 1000)
            connection.setsockopt(gsocket.IPPROTO_TCP, gsocket.TCP_USER_TIMEOUT, timeout_ms)
        self._watcher: Any = gevent.get_hub().loop.io(connection.fileno(), 1)

    def run(self, head: bytes) -> None:
        """Write `head`, and what `source` gives, until either side ends. Raises `OSError`."""
        self._watcher.start(self._arrived)
        try:
            self._put(head)
            self._outlet.send_all()
            while not self._gone:
                self._wake.clear()
                self._put(None if self._ending else self.source())
                if self._outlet.loaded:
                    self._outlet.send_all()
                elif self._ending:
                    self._finish()
                    return
                else:
                    self._wake.wait()
        finally:
            self._release()

    def _release(self) -> None:
        """Hold nothing any more, lest the collector has to find what refers to each other here."""
        self._watcher.close()
        self._outlet.drop()
        del self._watcher, self.source, self.farewell

    def _put(self, data: bytes | None) -> None:
        if data:
            self._outlet.put(data)
            self.written += len(data)

    def wake(self) -> None:
        """`source` may have more. Does not block."""
        self._wake.set()

    @property
    def is_gone(self) -> bool:
        """Whether nothing is written any more."""
        return self._gone

    @property
    def is_ending(self) -> bool:
        """Whether nothing more of `source` will be written, but for what it is about to give."""
        return self._gone or self._ending

    def end(self) -> None:
        """Write nothing more, and close. Does not block."""
        self._ending = True
        self._wake.set()

    def abort(self) -> None:
        """End the connection at once. Does not block."""
        self._gone = True
        self._outlet.shut()
        self._wake.set()

    def _arrived(self) -> None:
        """In the hub: the client sent something, which is dropped, or has gone."""
        try:
            data = self._socket._sock.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._watcher.stop()
            self.abort()

    def _finish(self) -> None:
        """Write the last words and let the client read them: unread input would reset the connection."""
        self._watcher.stop()
        if self._why is not None:
            self._put(self.farewell(self._why))
            self._outlet.send_all()
        self._socket.shutdown(gsocket.SHUT_WR)
        with gevent.Timeout(self._limits.linger_s, False), contextlib.suppress(OSError):
            while self._socket.recv(_RECEIVE_BYTES):
                breathe()

    # For the monitor

    def check(self, now: float) -> None:
        """Drop the connection if the client takes nothing of what is being written."""
        if self._outlet.is_lost(now):
            self.abort()

    @property
    def budget(self) -> SendBudget:
        """The budget that its client's charge is part of."""
        return self._outlet.charge.budget

    @property
    def slow_bytes(self) -> int:
        """Bytes that its client owes, if that takes next to nothing of them; else 0."""
        return self._outlet.charge.size if self._outlet.is_slow else 0

    def ping(self) -> None:
        """There are no pings in HTTP."""

    def close_with_farewell(self, code: int, reason: str, why: Ending) -> None:
        """The farewell, then the end."""
        self._why = why
        self.end()
