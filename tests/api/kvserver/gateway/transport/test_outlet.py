"""The sending side of a connection: clients that read slowly or not at all."""

from __future__ import annotations

import socket
import weakref
from functools import partial

import gevent  # type: ignore[import-untyped]
import pytest

from kvserver.gateway.transport.frames import Piece
from kvserver.gateway.transport.send_budget import SendBudget
from tests.api.kvserver.gateway.transport.pairs import LIMITS, STEP, Clock, Pair, settle, until


def test_who_reads_slowly_is_not_taken_for_one_that_does_not_read(clock: Clock, pair: Pair) -> None:
    """What it takes shows in the kernel's queue long before the kernel wants more."""
    pair.write(20)
    pair.websocket.drop_if_lost(clock.now)
    for _ in range(6):
        before = pair.queued
        while pair.queued == before:
            pair.take(STEP)
            gevent.sleep(0.002)
        clock.now += LIMITS.stall_s * 0.9
        pair.websocket.drop_if_lost(clock.now)
        assert not pair.websocket.closed
    clock.now += LIMITS.stall_s + 1
    pair.websocket.drop_if_lost(clock.now)
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
        pair.websocket.drop_if_lost(clock.now)
        assert not pair.websocket.closed
    assert clock.now - begun_at > LIMITS.silence_s
    pair.take(pair.given)
    clock.now += LIMITS.silence_s + 1
    pair.websocket.drop_if_lost(clock.now)
    assert pair.websocket.closed, "and now it says nothing"


def test_the_kernel_holds_little_for_who_does_not_read(pair: Pair) -> None:
    """Left alone it would take megabytes for each of them."""
    pair.write(20)
    assert pair.server.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) <= 256 << 10
    assert STEP < pair.queued < 1 << 20


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


def _pop(pieces: list[Piece]) -> Piece | None:
    return pieces.pop() if pieces else None


def test_what_is_given_to_many_is_owed_once() -> None:
    """As long as any of them has not taken it; a part that is left of something larger is each one's own."""
    budget = SendBudget()
    pairs = [Pair(budget=budget) for _ in range(3)]
    try:
        shared = bytes(4 << 20)
        for pair in pairs:
            pieces = [Piece(shared)]
            pair.websocket.source = partial(_pop, pieces)
            pair.websocket.wake()
        until(lambda: all(pair.queued for pair in pairs) and budget.bytes)
        settle()
        assert budget.bytes == len(shared)
        pairs[0].websocket.abort()
        assert pairs[1].take(len(shared)) == len(shared)
        settle()
        assert budget.bytes == len(shared)
        pairs[2].websocket.abort()
        until(lambda: not budget.bytes)
        pieces = [Piece(memoryview(shared)[1:])]
        pairs[1].websocket.source = partial(_pop, pieces)
        pairs[1].websocket.wake()
        until(lambda: budget.bytes)
        assert 0 < budget.bytes < len(shared)
    finally:
        for pair in pairs:
            pair.close()
    assert budget.bytes == 0
