"""A worker's socket to one incarnation of a shard: a DEALER, and the monitor that reports its connection.

It connects to that incarnation's own path, with IMMEDIATE (no queue without a connection) and LINGER 0 (no message
outlives the socket): a restarted shard can never be handed what was meant for its predecessor.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import zmq
from zmq.utils.monitor import recv_monitor_message

_COPY_BELOW = 1 << 20  # bytes of a message below which copying costs less than another thread that releases it
_WATCHED = zmq.Event.DISCONNECTED | zmq.Event.HANDSHAKE_SUCCEEDED
# Plain numbers: those of ZeroMQ's enumerations cost more than the calls they are for.
_DONTWAIT, _EVENTS, _POLLIN = int(zmq.DONTWAIT), int(zmq.EVENTS), int(zmq.POLLIN)


class ShardSocket:
    """A connection that ends with the shard's process. Used from the event loop's thread; no method blocks.

    Args:
        path: of the shard's sockets, without the incarnation.
        on_readable: called when replies may have arrived, for `receive`.
        on_connected: called when the shard has accepted the connection.
        on_lost: called when the shard has closed it, that is died.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        path: str,
        loop: asyncio.AbstractEventLoop,
        incarnation: int,
        on_readable: Callable[[], None],
        on_connected: Callable[[], None],
        on_lost: Callable[[], None],
    ) -> None:
        self.incarnation = incarnation
        self._loop, self._on_connected, self._on_lost = loop, on_connected, on_lost
        self._socket = socket = context.socket(zmq.DEALER)
        socket.setsockopt(zmq.IMMEDIATE, 1)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RCVHWM, 0)
        socket.setsockopt(zmq.RECONNECT_IVL, 10)
        self._monitor = socket.get_monitor_socket(_WATCHED)
        socket.connect(f"ipc://{path}-{incarnation:x}.req")
        loop.add_reader(socket.FD, on_readable)
        loop.add_reader(self._monitor.FD, self.check_monitor)

    def send(self, frame: bytes | bytearray) -> bool:
        """Hand a message to ZeroMQ; False if ZeroMQ did not accept it, and so certainly did not send it."""
        try:
            self._socket.send(frame, _DONTWAIT, copy=len(frame) < _COPY_BELOW)
        except zmq.Again:
            return False
        return True

    def has_replies(self) -> bool:
        """Whether messages have arrived."""
        return not self._socket.closed and bool(int(self._socket.get(_EVENTS)) & _POLLIN)

    def receive(self) -> Iterator[bytes]:
        """Yield the messages that have arrived, until there are none or the socket is closed.

        Cheap where there is one, as when `on_readable` is called: it receives without asking first, which takes longer.
        """
        if self._socket.closed:
            return
        try:
            yield self._socket.recv(_DONTWAIT)
            while self.has_replies():
                yield self._socket.recv(_DONTWAIT)
        except zmq.Again:
            return

    def check_monitor(self) -> None:
        """Read the monitor, so that the death of a shard is known at once."""
        while not self._monitor.closed:
            try:
                event = recv_monitor_message(self._monitor, zmq.DONTWAIT)["event"]
            except zmq.Again:
                return
            if event == zmq.Event.DISCONNECTED:
                self._on_lost()  # which closes this socket, and its monitor
                return
            if event == zmq.Event.HANDSHAKE_SUCCEEDED:
                self._on_connected()

    def close(self) -> None:
        """Close the socket. Messages that were not sent are dropped; those that were not received are lost."""
        self._loop.remove_reader(self._socket.FD)
        self._loop.remove_reader(self._monitor.FD)
        self._socket.disable_monitor()
        self._monitor.close(0)
        self._socket.close(0)
