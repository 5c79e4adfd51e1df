"""How a worker accepts connections. All workers listen on the same sockets, and the kernel wakes all of them.

The first worker awake would take every connection that waits: a client that opens 64 at once, as a pool does, could
have nearly all of them in one worker, and so use half of the machine. So a worker takes one at a time, and while it has
more than another it gives the others a moment. Then it takes the connection if it still waits: the others may be busy.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence
from typing import Final

YIELD_S: Final = 0.001
"""How long a connection is left to workers that have fewer."""
EXHAUSTED_S: Final = 0.1
"""How long a worker waits after it could not accept for lack of descriptors or memory."""

log = logging.getLogger("kvserver.web.acceptor")


class Acceptor:
    """Accepts from `listeners`, which do not block, until `close`. Makes a protocol for each connection."""

    def __init__(
        self,
        listeners: Sequence[socket.socket],
        make_protocol: Callable[[], asyncio.Protocol],
        exceeds_peers: Callable[[], bool],
        on_exhausted: Callable[[OSError], None],
    ) -> None:
        """`exceeds_peers`: whether this worker has so many connections that others go first. `on_exhausted`: is called
        with an error of `accept`; raises it unless it is a lack of descriptors or memory, which will pass."""
        self._make_protocol, self._exceeds_peers, self._on_exhausted = make_protocol, exceeds_peers, on_exhausted
        self._loop = asyncio.get_running_loop()
        self._opening: set[asyncio.Task[object]] = set()
        self._timers: dict[socket.socket, asyncio.TimerHandle] = {}
        self._listeners = list(listeners)
        for listener in self._listeners:
            self._loop.add_reader(listener, self._on_readable, listener)

    async def close(self) -> None:
        """Stop accepting, and wait until each accepted connection has its protocol. The caller closes the listeners."""
        for listener in self._listeners:
            self._loop.remove_reader(listener)
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        if self._opening:
            await asyncio.wait(self._opening)

    def _on_readable(self, listener: socket.socket) -> None:
        """A connection waits at `listener`. The loop calls again, in its next turn, if another one does."""
        if self._exceeds_peers():
            self._pause_listener(listener, YIELD_S)
        else:
            self._accept(listener)

    def _pause_listener(self, listener: socket.socket, seconds: float) -> None:
        self._loop.remove_reader(listener)
        self._timers[listener] = self._loop.call_later(seconds, self._resume_listener, listener)

    def _resume_listener(self, listener: socket.socket) -> None:
        del self._timers[listener]
        self._loop.add_reader(listener, self._on_readable, listener)
        self._accept(listener)

    def _accept(self, listener: socket.socket) -> None:
        try:
            connection, _ = listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # another worker was faster, or the client has gone
        except OSError as error:
            self._on_exhausted(error)
            self._pause_listener(listener, EXHAUSTED_S)
            return
        connection.setblocking(False)
        task = self._loop.create_task(self._loop.connect_accepted_socket(self._make_protocol, connection))
        self._opening.add(task)
        task.add_done_callback(self._on_opened)

    def _on_opened(self, task: asyncio.Task[object]) -> None:
        self._opening.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:  # its client has gone already
            log.debug("a connection failed at once: %s", error)
