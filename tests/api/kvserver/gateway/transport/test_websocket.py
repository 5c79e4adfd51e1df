"""One WebSocket connection in process: floods, and what is written between the pieces of a frame."""

from __future__ import annotations

import socket

import gevent  # type: ignore[import-untyped]
import pytest

from kvserver.gateway.transport import websocket
from kvserver.gateway.transport.frames import Piece
from kvserver.gateway.transport.limits import ConnectionLimits
from tests.api.kvserver.gateway.transport.pairs import Clock, Pair, settle, until


@pytest.mark.parametrize(("kind", "frame"), [("ping", b"\x89\x80mask"), ("text", b"\x81\x81mask\x0c")])
def test_a_flood_is_read_slowly(clock: Clock, monkeypatch: pytest.MonkeyPatch, kind: str, frame: bytes) -> None:
    """What comes in a second at once, the rest as time goes by; what is far below the limit never waits."""
    waits: list[float] = []
    sleep = gevent.sleep

    def pass_time(seconds: float) -> None:
        waits.append(seconds)
        clock.now += seconds
        sleep(0)

    pair = Pair(ConnectionLimits(intake_bytes_s=10_000))
    flood = frame * (40_000 // len(frame))
    pair.client.sendall(flood + b"\x88\x80mask")
    pair.client.shutdown(socket.SHUT_WR)
    monkeypatch.setattr(websocket, "breathe", lambda: None)
    monkeypatch.setattr(gevent, "sleep", pass_time)
    monkeypatch.setattr(websocket, "_OUTBOX_BYTES", 1 << 20)  # pongs need not be written for the next to be read
    begun_at = clock.now
    while pair.websocket.receive() is not None:
        pass
    monkeypatch.setattr(gevent, "sleep", sleep)
    assert clock.now - begun_at == pytest.approx(3.0, abs=0.2)
    assert max(waits) < 0.1, "in small portions: what follows a flood is not kept waiting"
    pair.close()


def test_a_connection_that_is_gone_is_not_looked_at(clock: Clock, pair: Pair) -> None:
    """It may vanish while all are looked at, in the middle of a write."""
    pair.write(20)
    pair.websocket.abort()
    pair.server.close()
    clock.now += 1000
    pair.websocket.drop_if_lost(clock.now)


def test_nothing_comes_between_the_pieces_of_a_frame(clock: Clock, pair: Pair) -> None:
    """Pings and closes wait for its end."""
    size, count = 1 << 20, 10
    pieces = [Piece(b"x" * size, number == 0) for number in range(count)]
    pair.websocket.source = lambda: pieces.pop() if pieces else None
    pair.websocket.wake()
    until(lambda: pair.queued > 0)
    settle()
    assert pieces
    pair.websocket.ping()
    pair.websocket.close(1012, "bye")
    received = b""
    while not received.endswith(b"bye"):
        gevent.sleep(0.001)
        data = pair.client.recv(1 << 20)
        assert data
        received += data
    assert received == b"x" * (size * count) + b"\x89\x03\x01\x02\x03" + b"\x88\x05\x03\xf4bye"


def test_half_a_frame_that_has_no_rest_ends_the_connection(clock: Clock, pair: Pair) -> None:
    """Nothing can follow it, not even a close."""
    pieces = [None, Piece(b"half", False)]
    pair.websocket.source = lambda: pieces.pop()
    pair.websocket.wake()
    until(lambda: pair.websocket.closed)
    assert pair.take(100) == 4
