"""An HTTP answer that lasts: what carries `/v1/feed` where there is no WebSocket."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, Final

import gevent  # type: ignore[import-untyped]
from gevent import socket as gsocket
from gevent.event import Event  # type: ignore[import-untyped]

from kvserver.gateway.transport.frames import Ending
from kvserver.gateway.transport.limits import ConnectionLimits
from kvserver.gateway.transport.outlet import Outlet
from kvserver.gateway.transport.scheduling import breathe
from kvserver.gateway.transport.send_budget import SendBudget

_RECEIVE_BYTES: Final = 16 << 10


class Stream:
    """One answer, after its head. The greenlet that calls `run` writes.

    Attributes:
        peer: the client's address, `ip:port`.
        written: bytes, with the head.
        source: returns what to write next; None: nothing now (then call `wake` when there is more). May switch.
        farewell: makes what to write before an end that the server begins; it is given the reason.
        outlet: the sending side.
    """

    def __init__(
        self, connection: gsocket.socket, peer: str, limits: ConnectionLimits, budget: SendBudget | None = None
    ) -> None:
        """Serve `connection`, on which the kernel gives up a client that acknowledges nothing for `limits.stall_s`.

        Args:
            budget: of the client's address; None: one of its own.
        """
        self.peer, self.written = peer, 0
        self.source: Callable[[], bytes | None] = lambda: None
        self.farewell: Callable[[Ending], bytes] = lambda why: b""
        self._socket, self._limits = connection, limits
        self.outlet = Outlet(connection, limits, budget or SendBudget())
        self._wake = Event()
        self._is_ending = self._is_gone = False
        self._why: Ending | None = None
        if connection.family != gsocket.AF_UNIX:
            # A client of a stream need not answer anything, so one that vanished shows only by what it does not take.
            timeout_ms = int(limits.stall_s * 1000)
            connection.setsockopt(gsocket.IPPROTO_TCP, gsocket.TCP_USER_TIMEOUT, timeout_ms)
        self._watcher: Any = gevent.get_hub().loop.io(connection.fileno(), 1)

    def run(self, head: bytes) -> None:
        """Write `head`, then what `source` gives, until either side ends. Blocks. Raises `OSError`."""
        self._watcher.start(self._drop_input)
        try:
            self._load(head)
            self.outlet.write_loaded()
            while not self._is_gone:
                self._wake.clear()
                self._load(None if self._is_ending else self.source())
                if self.outlet.is_loaded:
                    self.outlet.write_loaded()
                elif self._is_ending:
                    self._write_farewell()
                    return
                else:
                    self._wake.wait()
        finally:
            self._release_all()

    def _release_all(self) -> None:
        """Break the circles between these objects, which otherwise the garbage collector would have to find."""
        self._watcher.close()
        self.outlet.discard_unsent()
        del self._watcher, self.source, self.farewell

    def _load(self, data: bytes | None) -> None:
        if data:
            self.outlet.load(data)
            self.written += len(data)

    def wake(self) -> None:
        """Have `run` ask `source` again. Does not block."""
        self._wake.set()

    @property
    def is_gone(self) -> bool:
        """Whether nothing is written any more."""
        return self._is_gone

    @property
    def is_ending(self) -> bool:
        """Whether nothing more of `source` will be written, but for what it is about to give."""
        return self._is_gone or self._is_ending

    def end(self) -> None:
        """Close when everything is written, without asking `source` again. Does not block."""
        self._is_ending = True
        self._wake.set()

    def abort(self) -> None:
        """End the connection at once. Does not block."""
        self._is_gone = True
        self.outlet.shut_down()
        self._wake.set()

    def _drop_input(self) -> None:
        """Read and drop what the client sent; end the connection if it has gone. Runs in the hub, so never blocks."""
        try:
            data = self._socket._sock.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._watcher.stop()
            self.abort()

    def _write_farewell(self) -> None:
        """Write the farewell, and wait until the client has read it: unread input would reset the connection."""
        self._watcher.stop()
        if self._why is not None:
            self._load(self.farewell(self._why))
            self.outlet.write_loaded()
        self.outlet.end_writing()
        with gevent.Timeout(self._limits.linger_s, False), contextlib.suppress(OSError):
            while self._socket.recv(_RECEIVE_BYTES):
                breathe()

    # What the monitor asks

    def drop_if_lost(self, now: float) -> None:
        """End the connection if the client takes nothing of what is being written."""
        if self.outlet.is_lost(now):
            self.abort()

    def ping(self) -> None:
        """Do nothing: HTTP has no pings."""

    def close_with_farewell(self, code: int, reason: str, why: Ending) -> None:
        """Write the farewell, then end; `code` and `reason` are for WebSockets. Does not block."""
        self._why = why
        self.end()
