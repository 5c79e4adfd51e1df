"""A proxy that cuts connections: after so many bytes of what the client sends, or of what the server answers."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections import deque
from dataclasses import dataclass
from typing import Final, Self

_PIECE: Final = 1 << 16
_BUFFER: Final = 1 << 13
"""Bytes that wait for the proxy: few, so that a client cannot hand a large request to the kernel at once."""
_NO_TIME: Final = struct.pack("ii", 1, 0)
"""SO_LINGER of a socket whose close is a reset."""


@dataclass(frozen=True)
class Cut:
    """Where a connection is cut. None: not there.

    `request`: when so many bytes of the client's were passed on. `answer`: when the server sends more than so many
    bytes, which were passed back. Both count all requests of the connection. `reset`: by a reset, not an end.
    """

    request: int | None = None
    answer: int | None = None
    reset: bool = False


class CuttingProxy:
    """Passes connections on to a server, each until the next of `cuts`; when there is none left, it cuts no more.

    Attributes:
        cuts: of the next connections, in order.
        connections: how many were accepted.
        requested: bytes that came on the last connection.
        answered: bytes that went back on it.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(64)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.cuts: deque[Cut] = deque()
        self.connections, self.requested, self.answered = 0, 0, 0
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._run(self._accept)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.drop_all()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()

    def drop_all(self) -> None:
        """End all connections."""
        for sock in list(self._open):
            _shut(sock, socket.SHUT_RDWR)

    def _run(self, function: object, *arguments: object) -> threading.Thread:
        thread = threading.Thread(target=function, args=arguments)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()
        return thread

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self.requested = self.answered = 0
            self._run(self._serve, client, self.cuts.popleft() if self.cuts else Cut())

    def _serve(self, client: socket.socket, cut: Cut) -> None:
        with client, socket.create_connection(self._target) as server:
            self._open |= {client, server}
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            back = threading.Thread(target=self._pass_back, args=(client, server, cut))
            back.start()
            self._pass_on(client, server, cut)
            back.join()
            self._open -= {client, server}

    def _pass_on(self, client: socket.socket, server: socket.socket, cut: Cut) -> None:
        with contextlib.suppress(OSError):
            while cut.request is None or self.requested < cut.request:
                data = client.recv(_PIECE if cut.request is None else min(_PIECE, cut.request - self.requested))
                if not data:
                    break
                self.requested += len(data)
                server.sendall(data)
            else:
                _end(client, cut)
        _shut(server, socket.SHUT_RDWR)  # the client, or the cut, wants no answer any more

    def _pass_back(self, client: socket.socket, server: socket.socket, cut: Cut) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(_PIECE):
                room = len(data) if cut.answer is None else cut.answer - self.answered
                self.answered += min(len(data), room)  # before the client has them, and the test looks
                client.sendall(data[:room])
                if len(data) > room:
                    break
        _end(client, cut)
        _shut(server, socket.SHUT_RDWR)


def _end(client: socket.socket, cut: Cut) -> None:
    """End the client's connection at its cut; a reset follows when the socket is closed."""
    if cut.reset:
        with contextlib.suppress(OSError):
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_TIME)
    _shut(client, socket.SHUT_RD if cut.reset else socket.SHUT_RDWR)


def _shut(sock: socket.socket, how: int) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(how)
