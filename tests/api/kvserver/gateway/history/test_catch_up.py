"""Clients that catch up take turns, and everything else goes between their turns."""

from __future__ import annotations

import time
from collections.abc import Iterator

import gevent
import pytest

from kvserver.gateway.feed.walk import ClientGone
from kvserver.gateway.history import catch_up
from kvserver.gateway.history.catch_up import CatchUpTurn, CatchUpTurns


class Clock:
    """What time it is for the turns."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        """Seconds."""
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    """A clock that the test moves."""
    moved = Clock()
    monkeypatch.setattr(catch_up, "time", moved)
    yield moved


def spawn(turn: CatchUpTurn, name: str, steps: int, done: list[str], clock: Clock, step_s: float) -> gevent.Greenlet:
    """A client that catches up in so many steps, which take so long, without a breath between them."""

    def run() -> None:
        for _ in range(steps):
            turn.wait()
            done.append(name)
            clock.now += step_s

    return gevent.spawn(run)


def joined(greenlets: list[gevent.Greenlet]) -> None:
    """Wait for their ends."""
    gevent.joinall(greenlets, timeout=30, raise_error=True)
    assert all(greenlet.dead for greenlet in greenlets)


def test_addresses_then_clients_take_turns(clock: Clock) -> None:
    turns, done = CatchUpTurns(), []
    clients = [("a1", "a"), ("a2", "a"), ("b1", "b")]
    joined([spawn(turns.of(address), name, 2, done, clock, catch_up.TURN_S) for name, address in clients])
    assert done == ["a1", "b1", "a2", "b1", "a1", "a2"]


def test_a_turn_is_of_several_short_steps(clock: Clock) -> None:
    turns, done = CatchUpTurns(), []
    joined([spawn(turns.of(name), name, 6, done, clock, catch_up.TURN_S / 3.5) for name in ("a", "b")])
    assert done == ["a"] * 4 + ["b"] * 4 + ["a"] * 2 + ["b"] * 2


def test_others_run_after_each_turn_however_many_wait(clock: Clock) -> None:
    """A timer of the event loop, which anything that happens now may be, comes between any two turns."""
    turns, done = CatchUpTurns(), []

    def live() -> None:
        while len(done) < 200:
            ran.append(len(done))
            gevent.sleep(catch_up.REST_S / 4)

    ran: list[int] = []
    clients = [spawn(turns.of("a"), str(n), 2, done, clock, catch_up.TURN_S) for n in range(100)]
    joined([*clients, gevent.spawn(live)])
    assert len(done) == 200
    assert set(ran) >= set(range(1, 200)), "turns followed each other without others between them"


def test_who_is_gone_gets_no_turn_and_keeps_nobody_waiting(clock: Clock) -> None:
    turns, done = CatchUpTurns(), []
    gone, killed, left = turns.of("a"), turns.of("a"), turns.of("a")
    waiting = gevent.spawn(turns.wait, killed)
    others = [spawn(gone, "gone", 1, done, clock, 0), spawn(left, "left", 1, done, clock, 0)]
    gone.end()
    gevent.sleep(0)
    waiting.kill()
    with pytest.raises(ClientGone):
        joined(others)
    joined(others[1:])
    assert done == ["left"]
    with pytest.raises(ClientGone):
        gone.wait()


def test_time_is_real() -> None:
    """The same without a moved clock: who catches up alone gets on."""
    turn, until = CatchUpTurns().of("a"), time.monotonic() + 3 * catch_up.TURN_S
    steps = 0
    while time.monotonic() < until or not steps:
        turn.wait()
        steps += 1
    assert steps
