"""One WebSocket connection in process: clients that read slowly or not at all, and what is written to them.

Real sockets; the clock is the test's.
"""

from __future__ import annotations

import select
import socket
import time
import weakref
from collections.abc import Callable, Iterator
from functools import partial

import gevent  # type: ignore[import-untyped]
import pytest
from gevent import socket as gsocket

from kvserver.gateway.transport import websocket as module
from kvserver.gateway.transport.frames import Ending
from kvserver.gateway.transport.send_budget import Debt, Debts
from kvserver.gateway.transport.websocket import Keeper, Limits, Piece, WebSocket
from kvserver.http.send_queue import count_unsent

LIMITS = Limits(linger_s=20)
STEP = 32_768
"""Bytes that a slow client takes at a time: far less than the kernel wants to have free before it takes more."""


class Clock:
    """Stands for the module `time`."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Pair:
    """A connection and its client."""

    def __init__(self, limits: Limits = LIMITS, debts: Debts | None = None) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.client = socket.socket()
            self.client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, STEP)
            self.client.settimeout(20)
            self.client.connect(listener.getsockname())
            accepted, _ = listener.accept()
        self.server = gsocket.socket(fileno=accepted.detach())
        self.websocket = WebSocket(self.server, "peer", b"", limits, debts)
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


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def pair(clock: Clock) -> Iterator[Pair]:
    pair = Pair()
    yield pair
    pair.close()


def test_who_reads_slowly_is_not_taken_for_one_that_does_not_read(clock: Clock, pair: Pair) -> None:
    """What it takes shows in the kernel's queue long before the kernel wants more."""
    pair.write(20)
    pair.websocket.check(clock.now)
    for _ in range(6):
        before = pair.queued
        while pair.queued == before:
            pair.take(STEP)
            gevent.sleep(0.002)
        clock.now += LIMITS.stall_s * 0.9
        pair.websocket.check(clock.now)
        assert not pair.websocket.closed
    clock.now += LIMITS.stall_s + 1
    pair.websocket.check(clock.now)
    assert pair.websocket.closed, "and now it takes nothing"


@pytest.mark.parametrize(("pieces", "step"), [(5, 100_000), (40, 2_000_000)])
def test_who_reads_slowly_is_not_silent(clock: Clock, pair: Pair, pieces: int, step: int) -> None:
    """Its pongs stand behind all that was written: that it takes something is its sign of life."""
    begun_at = clock.now
    pair.write(pieces)
    while pair.given > step:
        clock.now += 4.0
        pair.given -= pair.take(step)
        settle()
        pair.websocket.check(clock.now)
        assert not pair.websocket.closed
    assert clock.now - begun_at > LIMITS.silence_s
    pair.take(pair.given)
    clock.now += LIMITS.silence_s + 1
    pair.websocket.check(clock.now)
    assert pair.websocket.closed, "and now it says nothing"


def test_the_kernel_holds_little_for_who_does_not_read(pair: Pair) -> None:
    """Left alone it would take megabytes for each of them."""
    pair.write(20)
    assert pair.server.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) <= 256 << 10
    assert STEP < pair.queued < 1 << 20


@pytest.mark.parametrize(("kind", "frame"), [("ping", b"\x89\x80mask"), ("text", b"\x81\x81mask\x0c")])
def test_a_flood_is_read_slowly(clock: Clock, monkeypatch: pytest.MonkeyPatch, kind: str, frame: bytes) -> None:
    """What comes in a second at once, the rest as time goes by; what is far below the limit never waits."""
    waits: list[float] = []
    sleep = gevent.sleep

    def pass_time(seconds: float) -> None:
        waits.append(seconds)
        clock.now += seconds
        sleep(0)

    pair = Pair(Limits(intake_bytes_s=10_000))
    flood = frame * (40_000 // len(frame))
    pair.client.sendall(flood + b"\x88\x80mask")
    pair.client.shutdown(socket.SHUT_WR)
    monkeypatch.setattr(module, "breathe", lambda: None)
    monkeypatch.setattr(gevent, "sleep", pass_time)
    monkeypatch.setattr(module, "_OUTBOX_BYTES", 1 << 20)  # pongs need not be written for the next to be read
    begun_at = clock.now
    while pair.websocket.receive() is not None:
        pass
    monkeypatch.setattr(gevent, "sleep", sleep)
    assert clock.now - begun_at == pytest.approx(3.0, abs=0.2)
    assert max(waits) < 0.1, "in small portions: what follows a flood is not kept waiting"
    pair.close()


class Dismissed:
    """A connection that takes its time to be told."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.told_at = 0.0

    def check(self, now: float) -> None:
        raise AssertionError

    def ping(self) -> None:
        raise AssertionError

    def abort(self) -> None:
        raise AssertionError

    def dismiss(self, code: int, reason: str, why: Ending) -> None:
        assert (code, reason, why) == (1012, "bye", "stop")
        self._clock.now += 0.0003
        self.told_at = self._clock.now


@pytest.mark.parametrize("count", [3, 2000])
def test_all_are_told_in_time_however_many_they_are(clock: Clock, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Spread, but not beyond: a sleep that is too long is made up for."""

    sleep = gevent.sleep

    def oversleep(seconds: float) -> None:
        clock.now += seconds + 0.002
        sleep(0.001)  # the event loop has had a turn

    monkeypatch.setattr(gevent, "sleep", oversleep)
    keeper = Keeper(LIMITS)
    connections = [Dismissed(clock) for _ in range(count)]
    for connection in connections:
        keeper.add(connection)
    begun_at = clock.now
    keeper.close_all(1012, "bye", "stop", 1.0)
    told = sorted(connection.told_at - begun_at for connection in connections)
    assert told[0] < 0.001 and told[-1] <= 1.01
    assert told[-1] > min(0.9, 0.01 * (count - 1)), "and not all at once"


def test_a_connection_that_is_gone_is_not_looked_at(clock: Clock, pair: Pair) -> None:
    """It may vanish while all are looked at, in the middle of a write."""
    pair.write(20)
    pair.websocket.abort()
    pair.server.close()
    clock.now += 1000
    pair.websocket.check(clock.now)


class Frame(bytearray):
    """A large one whose end can be watched."""


def test_what_waits_for_a_client_pins_no_more_than_itself(clock: Clock, pair: Pair) -> None:
    """Not the large frame it is a part of."""
    frame = Frame(40 << 20)
    watched = weakref.ref(frame)
    view = memoryview(frame)
    pieces = [Piece(view[at : at + (1 << 20)], at + (1 << 20) == len(frame)) for at in range(0, len(frame), 1 << 20)]
    pieces.reverse()
    pair.websocket.source = lambda: pieces.pop() if pieces else None
    pair.websocket.wake()
    until(lambda: pair.queued > 0)
    settle()
    assert pieces
    pieces.clear()
    del view, frame
    assert watched() is None
    pair.take(1 << 20)


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


def test_what_is_given_to_many_is_owed_once() -> None:
    """As long as any of them has not taken it; a part that is left of something larger is each one's own."""
    debts = Debts()
    pairs = [Pair(debts=debts) for _ in range(3)]
    try:
        shared = bytes(4 << 20)
        for pair in pairs:
            pieces = [Piece(shared)]
            pair.websocket.source = partial(_pop, pieces)
            pair.websocket.wake()
        until(lambda: all(pair.queued for pair in pairs) and debts.bytes)
        settle()
        assert debts.bytes == len(shared)
        pairs[0].websocket.abort()
        assert pairs[1].take(len(shared)) == len(shared)
        settle()
        assert debts.bytes == len(shared)
        pairs[2].websocket.abort()
        until(lambda: not debts.bytes)
        pieces = [Piece(memoryview(shared)[1:])]
        pairs[1].websocket.source = partial(_pop, pieces)
        pairs[1].websocket.wake()
        until(lambda: debts.bytes)
        assert 0 < debts.bytes < len(shared)
    finally:
        for pair in pairs:
            pair.close()
    assert debts.bytes == 0


def _pop(pieces: list[Piece]) -> Piece | None:
    return pieces.pop() if pieces else None


def test_who_takes_next_to_nothing_goes_when_much_is_owed(clock: Clock) -> None:
    """The largest debt first, and no more of them than it takes. Who takes enough stays, however much it owes."""
    debts = Debts(12 << 20)
    keeper = Keeper(LIMITS, debts)
    good, small, large = [Pair(debts=debts) for _ in range(3)]
    try:
        for pair, mib in ((good, 4), (small, 1), (large, 3)):
            keeper.add(pair.websocket)
            pair.write(1, mib << 20)
        assert debts.bytes == 8 << 20

        def look() -> None:
            for pair in (good, small, large):
                pair.websocket.check(clock.now)
            keeper.make_room()
            settle()

        look()
        for _ in range(7):
            clock.now += 1
            good.take(4 * STEP)
            look()
        assert not any(pair.websocket.closed for pair in (good, small, large))  # as long as there is room
        more = Debt(debts)
        more.owe(1 << 20)
        look()
        assert [pair.websocket.closed for pair in (good, small, large)] == [False, False, True]
        until(lambda: debts.bytes == 6 << 20)
        look()
        assert not small.websocket.closed
        more.owe(6 << 20)
        look()
        assert [pair.websocket.closed for pair in (good, small)] == [False, True]
    finally:
        for pair in (good, small, large):
            pair.close()


def test_an_address_that_owes_much_loses_its_own_slow_clients(clock: Clock) -> None:
    """While there is room in all, nobody else's go."""
    debts = Debts(16 << 20)
    keeper = Keeper(LIMITS, debts)
    mine, others = debts.of("10.0.0.1:1"), debts.of("10.0.0.2:1")
    pairs = [Pair(debts=mine), Pair(debts=mine), Pair(debts=others)]
    try:
        for pair, mib in zip(pairs, (5, 1, 5), strict=True):
            keeper.add(pair.websocket)
            pair.write(1, mib << 20)
        for _ in range(3):
            clock.now += 1
            for pair in pairs:
                pair.websocket.check(clock.now)
            keeper.make_room()
            settle()
        assert [pair.websocket.closed for pair in pairs] == [True, False, False]
        assert not debts.are_high_without(0)
    finally:
        for pair in pairs:
            pair.close()
