"""One connection from its head to its end, in process, with the echo application."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import gevent  # type: ignore[import-untyped]
import pytest
from gevent import socket as gsocket
from gevent.pool import Pool  # type: ignore[import-untyped]

from kvserver.gateway.transport.handler import GatewayHandler, GatewayServer
from kvserver.gateway.transport.head import Head
from kvserver.gateway.transport.limits import ConnectionLimits
from kvserver.gateway.transport.monitor import ConnectionMonitor
from kvserver.gateway.transport.stream import Stream
from shards.wire.errors import NoFeed
from tests.echo.app import EchoApp

HANDSHAKE = (
    b"GET /%b HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


class Counting(EchoApp):
    """Echoes, streams on `/stream`, refuses `/refused`; counts."""

    def __init__(self) -> None:
        super().__init__()
        self.limits = ConnectionLimits(handshake_s=0.2, linger_s=20)
        self.counted: list[int] = []
        self.left = 0

    def admit(self, head: Head, peer: str) -> Any:
        if head.path == b"/refused":
            raise NoFeed("of this test")
        if head.path == b"/stream":
            return Streamed()
        return super().admit(head, peer)

    def answered(self, head: Head | None, peer: str, status: int, seconds: float, request_id: bytes) -> None:
        self.counted.append(status)

    def leave(self, session: Any) -> None:
        self.left += 1
        session.end()


class Streamed:
    """A stream that says one word, and ends."""

    head = b"HTTP/1.1 200 OK\r\n\r\n"

    def carry(self, stream: Stream) -> None:
        words = [b"word"]

        def next_word() -> bytes | None:
            stream.end()
            return words.pop()

        stream.source = next_word

    def end(self) -> None:
        """Nothing to release."""


class House:
    """A server without a listener's loop: connections are adopted."""

    def __init__(self) -> None:
        self.app = Counting()
        self.listener = gsocket.socket()
        self.listener.bind(("127.0.0.1", 0))
        self.monitor = ConnectionMonitor(self.app.limits, self.app.budget)
        self.server = GatewayServer(
            self.listener,
            application=self.app,
            spawn=Pool(10),
            log=SimpleNamespace(access=lambda *_: None, debug=lambda *_: None, write=lambda *_: None),
            handler_class=GatewayHandler,
            environ={"wsgi.multithread": True, "SERVER_SOFTWARE": "test"},
            monitor=self.monitor,
        )

    def connect(self, received: bytes) -> Any:
        """A client of which this was read already."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            client = gsocket.create_connection(listener.getsockname(), timeout=20)
            accepted, address = listener.accept()
        self.server.adopt(gsocket.socket(fileno=accepted.detach()), address, received)
        return client

    def answer(self, received: bytes) -> bytes:
        """All that a client gets that sends nothing more."""
        client = self.connect(received)
        client.shutdown(socket.SHUT_WR)
        data = b""
        while part := client.recv(1 << 16):
            data += part
        client.close()
        self.server.pool.join()
        return data


@pytest.fixture
def house() -> Iterator[House]:
    house = House()
    yield house
    house.server.pool.join(timeout=20)
    assert not len(house.monitor) and not house.server.shaking_hands and house.app.budget.bytes == 0
    house.listener.close()


def test_a_websocket_is_run_and_released(house: House) -> None:
    client = house.connect(HANDSHAKE % b"echo" + b"\x81\x83\0\0\0\0abc")
    data = b""
    while not data.endswith(b"\x81\x03abc"):
        part = client.recv(1 << 16)
        assert part
        data += part
    assert data.startswith(b"HTTP/1.1 101 ")
    client.sendall(b"\x88\x80mask")
    while client.recv(1 << 16):
        pass
    client.close()
    house.server.pool.join()
    assert house.app.counted == [101] and house.app.left == 1


def test_a_stream_is_run_and_released(house: House) -> None:
    assert house.answer(HANDSHAKE % b"stream").startswith(b"HTTP/1.1 200 OK\r\n\r\n")
    assert house.app.counted == [200] and house.app.left == 1


@pytest.mark.parametrize(
    ("received", "status"),
    [
        (HANDSHAKE % b"refused", 503),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"nothing like it\r\n\r\n", 400),
        (b"OPTIONS / HTTP/1.1\r\nHost: x\r\nOrigin: https://a.example\r\n\r\n", 200),
    ],
)
def test_what_is_answered_at_once(house: House, received: bytes, status: int) -> None:
    assert house.answer(received).startswith(b"HTTP/1.1 %d " % status)
    assert house.app.counted == [status] and house.app.left == 0


def test_a_head_that_never_ends_is_timed_out(house: House) -> None:
    client = house.connect(b"GET / HTTP/1.1\r\n")
    assert client.recv(1 << 16).startswith(b"HTTP/1.1 408 ")
    client.close()


def test_who_says_nothing_gets_no_answer(house: House) -> None:
    assert house.answer(b"") == b"" and house.app.counted == []


def test_a_failing_session_closes_with_1011(house: House, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "kvserver.gateway.transport.handler")
    frame = b"\x81\x84\0\0\0\0fail"
    client = house.connect(HANDSHAKE % b"echo" + frame)
    data = b""
    while not data.endswith(b"\x88\x02\x03\xf3"):
        part = client.recv(1 << 16)
        assert part
        data += part
    client.close()
    gevent.sleep(0)
