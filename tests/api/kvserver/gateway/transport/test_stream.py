"""One answer that lasts, in process."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import gevent  # type: ignore[import-untyped]
import pytest
from gevent import socket as gsocket

from kvserver.gateway.transport.limits import ConnectionLimits
from kvserver.gateway.transport.stream import Stream
from tests.api.kvserver.gateway.transport.pairs import Clock, settle, until


class Ends:
    """A stream that runs, and its client."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.client = socket.create_connection(listener.getsockname(), timeout=20)
            accepted, _ = listener.accept()
        self.server = gsocket.socket(fileno=accepted.detach())
        self.stream = Stream(self.server, "10.0.0.1:5", ConnectionLimits(linger_s=20))
        self.parts: list[bytes] = []
        self.stream.source = lambda: self.parts.pop(0) if self.parts else None
        self.stream.farewell = lambda why: f"bye, {why}".encode()
        self.running = gevent.spawn(self.stream.run, b"head.")

    def received(self) -> bytes:
        """All that the client gets until the end."""
        data = b""
        while part := gevent.get_hub().threadpool.apply(self.client.recv, (1 << 16,)):
            data += part
        return data


@pytest.fixture
def ends(clock: Clock) -> Iterator[Ends]:
    ends = Ends()
    yield ends
    ends.client.close()
    ends.running.join()
    ends.server.close()


def test_what_the_source_gives_is_written(ends: Ends) -> None:
    ends.parts += [b"one.", b"two."]
    settle()
    ends.parts.append(b"three.")
    ends.stream.wake()
    settle()
    ends.stream.end()
    gevent.spawn(ends.client.shutdown, socket.SHUT_WR)
    assert ends.received() == b"head.one.two.three." and ends.stream.written == 19


def test_the_farewell_comes_last(ends: Ends) -> None:
    settle()
    ends.parts.append(b"too late")
    ends.stream.close_with_farewell(1012, "", "reload")
    gevent.spawn(ends.client.shutdown, socket.SHUT_WR)
    assert ends.received() == b"head.bye, reload"


def test_a_client_that_goes_ends_the_stream(ends: Ends) -> None:
    settle()
    ends.client.sendall(b"what a client sends is dropped")
    settle()
    assert not ends.running.dead
    ends.client.close()
    until(lambda: ends.running.dead)


def test_a_client_that_takes_nothing_is_dropped(ends: Ends, clock: Clock) -> None:
    """And one for whom there is nothing never is: it need not say anything."""
    settle()
    clock.now += 1000
    ends.stream.drop_if_lost(clock.now)
    assert not ends.running.dead
    ends.parts.append(bytes(20 << 20))
    ends.stream.wake()
    until(lambda: ends.stream.outlet.budget.bytes)
    for _ in range(2):
        ends.stream.drop_if_lost(clock.now)
        clock.now += 15
    ends.stream.drop_if_lost(clock.now)
    assert ends.stream.outlet.slow_bytes > 0 or ends.running.dead
    until(lambda: ends.running.dead)
    assert ends.stream.outlet.budget.bytes == 0
