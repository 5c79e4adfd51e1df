"""How connections come to a worker. All workers listen on the same sockets, and the kernel wakes all of them.

Whoever is awake first would take every connection that waits: a client that opens 64 at once, as a pool does, could
have nearly all of them in one worker, and half of the machine. So a worker takes one at a time, and while it has more
than another it leaves the others a moment. If nobody took the connection by then, it does: the others may be busy.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from shards.host.logs import Recurring
from shards.wire.errors import EXHAUSTED

if TYPE_CHECKING:
    from kvserver.web.traffic import Traffic  # the gateway, which imports this module, has no use for it

LEAVE_S: Final = 0.001
"""How long a connection is left to workers that have fewer."""
SLACK: Final = 1
"""A worker may have so many connections more than another, and an eighth, before it leaves new ones to others."""
EXHAUSTED_S: Final = 0.1
"""How long a worker waits that could not take one for want of descriptors or memory."""


log = logging.getLogger("kvserver.web.acceptor")
_exhausted = Recurring(log, logging.ERROR, "no connection can be taken: %s")


class Acceptor:
    """Accepts from `listeners`, which do not block, until `close`. Makes a protocol for each connection."""

    def __init__(
        self, listeners: Sequence[socket.socket], make_protocol: Callable[[], asyncio.Protocol], traffic: Traffic
    ) -> None:
        self._make_protocol, self._traffic = make_protocol, traffic
        self._loop = asyncio.get_running_loop()
        self._opening: set[asyncio.Task[object]] = set()
        self._timers: dict[socket.socket, asyncio.TimerHandle] = {}
        self._listeners = list(listeners)
        for listener in self._listeners:
            self._loop.add_reader(listener, self._on_readable, listener)

    async def close(self) -> None:
        """Accept no more, and see to it that what was accepted has its protocol. The sockets stay open: they are the
        caller's."""
        for listener in self._listeners:
            self._loop.remove_reader(listener)
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        if self._opening:
            await asyncio.wait(self._opening)

    def _on_readable(self, listener: socket.socket) -> None:
        """Somebody waits at `listener`. The loop calls again, in its next turn, if somebody else does."""
        least = self._traffic.least_connections_of_others()
        if len(self._traffic.connections) > least + least // 8 + SLACK:
            self._leave(listener, LEAVE_S)
        else:
            self._accept(listener)

    def _leave(self, listener: socket.socket, seconds: float) -> None:
        self._loop.remove_reader(listener)
        self._timers[listener] = self._loop.call_later(seconds, self._return, listener)

    def _return(self, listener: socket.socket) -> None:
        del self._timers[listener]
        self._loop.add_reader(listener, self._on_readable, listener)
        self._accept(listener)

    def _accept(self, listener: socket.socket) -> None:
        try:
            connection, _ = listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # another worker was faster, or the client has gone
        except OSError as error:
            if error.errno not in EXHAUSTED:
                raise
            _exhausted.report(error.strerror)
            self._leave(listener, EXHAUSTED_S)
            return
        connection.setblocking(False)
        task = self._loop.create_task(self._loop.connect_accepted_socket(self._make_protocol, connection))
        self._opening.add(task)
        task.add_done_callback(self._opened)

    def _opened(self, task: asyncio.Task[object]) -> None:
        self._opening.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:  # its client has gone already
            log.debug("a connection came to nothing: %s", error)
