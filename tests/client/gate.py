"""A way to a server that can be shut: connections through it end, and new ones are refused until it is opened again."""

from __future__ import annotations

import socket
from typing import Self

from tests.client.cutting_proxy import CuttingProxy


class Gate(CuttingProxy):
    """Passes connections on to a server while it is open, as it is at first."""

    is_open = True

    def shut(self) -> None:
        """End all connections and refuse new ones."""
        self.is_open = False
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.drop_all()

    def open(self) -> None:
        """Let connections through again, at the same port."""
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(("127.0.0.1", self.port))
        self._listener.listen(64)
        self._run(self._accept)
        self.is_open = True


class DeafPort:
    """A port where nobody answers who wants to connect, as behind a cut cable."""

    def __init__(self) -> None:
        self._sockets = [socket.create_server(("127.0.0.1", 0), backlog=0)]
        self.url = f"http://127.0.0.1:{self._sockets[0].getsockname()[1]}"
        for _ in range(2):  # they fill the queue, and are never accepted
            waiting = socket.socket()
            waiting.setblocking(False)
            waiting.connect_ex(self._sockets[0].getsockname())
            self._sockets.append(waiting)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for sock in self._sockets:
            sock.close()
