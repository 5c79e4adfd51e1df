"""A server of HTTP that does with each request what its test says: answer it, half of it, or close the connection."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType


@dataclass(frozen=True)
class Request:
    """A request as it came. `connection`: the number of its connection, from 0."""

    connection: int
    method: str
    target: str
    headers: dict[str, str]
    body: bytes


Answer = Callable[[Request], "bytes | None"]
"""Returns what is sent; what does not end in an empty chunk or a whole body is followed by a close if it is `None`."""


def answer(status: int, body: bytes = b"", *headers: str) -> bytes:
    """Return an answer with a body and its length."""
    lines = [f"HTTP/1.1 {status} Any", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def chunk(data: bytes) -> bytes:
    """Return a chunk of a body that has no length."""
    return b"%x\r\n%b\r\n" % (len(data), data)


class WickedServer:
    """Listens on a free port of 127.0.0.1 while it is entered. `requests`: those that came whole, in order.

    `reply` is called for each, in a thread of the connection; what it returns is sent, and the connection is closed if
    that is None or ends with `CLOSE`.
    """

    CLOSE = b"\0close\0"

    def __init__(self, reply: Answer) -> None:
        self.requests: list[Request] = []
        self._reply = reply
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._connections: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._connections.append(connection)
            number = len(self._connections) - 1
            threading.Thread(target=self._serve, args=(connection, number), daemon=True).start()

    def _serve(self, connection: socket.socket, number: int) -> None:
        data = b""
        try:
            while True:
                while b"\r\n\r\n" not in data:
                    data += self._receive(connection)
                head, _, data = data.partition(b"\r\n\r\n")
                first, *lines = head.decode("latin-1").split("\r\n")
                headers = {name.lower(): text.strip() for name, _, text in (line.partition(":") for line in lines)}
                size = int(headers.get("content-length", "0"))
                while len(data) < size:
                    data += self._receive(connection)
                method, target, _ = first.split(" ")
                request = Request(number, method, target, headers, data[:size])
                data = data[size:]
                self.requests.append(request)
                reply = self._reply(request)
                connection.sendall((reply or b"").removesuffix(self.CLOSE))
                if reply is None or reply.endswith(self.CLOSE):
                    break
        except OSError:
            pass
        finally:
            connection.close()

    def _receive(self, connection: socket.socket) -> bytes:
        data = connection.recv(65536)
        if not data:
            raise ConnectionResetError
        return data

    def __enter__(self) -> WickedServer:
        self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._connections:
            connection.close()
        self._thread.join()
