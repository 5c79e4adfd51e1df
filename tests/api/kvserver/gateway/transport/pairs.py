"""A connection in process and its client, on real sockets; the clock is the test's."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable

import gevent  # type: ignore[import-untyped]
from gevent import socket as gsocket

from kvserver.gateway.transport.frames import Piece
from kvserver.gateway.transport.limits import ConnectionLimits
from kvserver.gateway.transport.send_budget import SendBudget
from kvserver.gateway.transport.websocket import WebSocket
from kvserver.http.send_queue import count_unsent

LIMITS = ConnectionLimits(linger_s=20)


STEP = 32_768


class Clock:
    """Stands for the module `time`."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Pair:
    """A connection and its client."""

    def __init__(self, limits: ConnectionLimits = LIMITS, budget: SendBudget | None = None) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.client = socket.socket()
            self.client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, STEP)
            self.client.settimeout(20)
            self.client.connect(listener.getsockname())
            accepted, _ = listener.accept()
        self.server = gsocket.socket(fileno=accepted.detach())
        self.websocket = WebSocket(self.server, "peer", b"", limits, budget)
        self.given = 0

    def write(self, count: int, size: int = 1 << 20) -> None:
        """Have the connection write `count` pieces of `size` bytes, until the kernel takes no more."""
        left = [Piece(bytes(size))] * count
        self.websocket.source = lambda: left.pop() if left else None
        self.websocket.wake()
        self.given += count * size
        until(lambda: self.queued > 0)
        settle()

    @property
    def queued(self) -> int:
        """Bytes that the kernel has."""
        return count_unsent(self.server.fileno())

    def take(self, size: int) -> int:
        """Read as a client; how many bytes came."""
        taken = 0
        while taken < size:
            until(lambda: select.select([self.client], [], [], 0)[0])  # the writer goes on meanwhile
            data = self.client.recv(min(size - taken, 1 << 16))
            if not data:
                break
            taken += len(data)
        return taken

    def close(self) -> None:
        self.websocket.abort()
        gevent.sleep(0.01)
        self.server.close()
        self.client.close()


def settle() -> None:
    """Let the writer write what it can."""
    for _ in range(10):
        gevent.sleep(0.002)


def until(condition: Callable[[], object]) -> None:
    """Wait for `condition`."""
    give_up_at = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < give_up_at, "it never came"
        gevent.sleep(0.002)
