"""A WebSocket client that does what a test says, right or wrong."""

from __future__ import annotations

import socket

from websockets.frames import Close, Frame, Opcode

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
HANDSHAKE = {
    "Host": "kv.example",
    "Connection": "keep-alive, Upgrade",
    "Upgrade": "WebSocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": KEY,
}


class Raw:
    """A connection by hand."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.received = b""

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def _until(self, count: int) -> bytes:
        while len(self.received) < count:
            data = self.socket.recv(1 << 16)
            if not data:
                raise EOFError(self.received)
            self.received += data
        data, self.received = self.received[:count], self.received[count:]
        return data

    def upgrade(self, target: str, **headers: str) -> bytes:
        """Shake hands; the answer's head."""
        self.send(request("GET", target, HANDSHAKE | headers))
        head = self.head()
        assert head.startswith(b"HTTP/1.1 101 "), head
        return head

    def head(self) -> bytes:
        """The head of a response."""
        while b"\r\n\r\n" not in self.received:
            data = self.socket.recv(1 << 16)
            assert data, self.received
            self.received += data
        return self._until(self.received.index(b"\r\n\r\n") + 4)

    def rest(self) -> bytes:
        """Everything up to the end, which must be an orderly one."""
        while data := self.socket.recv(1 << 16):
            self.received += data
        return self.received

    def frame(self) -> Frame:
        """The next frame."""
        first, length = self._until(2)
        assert not length & 0x80, "a server's frames are not masked"
        if length >= 126:
            size = {126: 2, 127: 8}[length]
            length = int.from_bytes(self._until(size), "big")
        return Frame(Opcode(first & 15), self._until(length), bool(first & 0x80))

    def frame_but_pings(self) -> Frame:
        """The next frame that is no ping."""
        while (frame := self.frame()).opcode is Opcode.PING:
            pass
        return frame

    def closed_with(self) -> Close:
        """Code and reason of the close frame, which is the last thing that comes."""
        frame = self.frame_but_pings()
        assert frame.opcode is Opcode.CLOSE, frame
        assert self.rest() == b""
        return Close.parse(bytes(frame.data))


def request(method: str, target: str, headers: dict[str, str], version: str = "1.1") -> bytes:
    """A request head; headers with an empty value are left out."""
    lines = [f"{method} {target} HTTP/{version}", *(f"{name}: {value}" for name, value in headers.items() if value)]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def masked(opcode: int, payload: bytes, *, fin: bool = True) -> bytes:
    """A frame as a client sends it."""
    return Frame(Opcode(opcode), payload, fin).serialize(mask=True)
