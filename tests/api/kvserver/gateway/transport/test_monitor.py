"""The monitor of all connections: how they are closed, and which are shed."""

from __future__ import annotations

from typing import Any

import gevent  # type: ignore[import-untyped]
import pytest

from kvserver.gateway.transport.frames import Ending
from kvserver.gateway.transport.monitor import ConnectionMonitor
from kvserver.gateway.transport.send_budget import BudgetCharge, SendBudget
from tests.api.kvserver.gateway.transport.pairs import LIMITS, STEP, Clock, Pair, settle, until


class Dismissed:
    """A connection that takes its time to be told."""

    outlet: Any = None

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.told_at = 0.0

    def drop_if_lost(self, now: float) -> None:
        raise AssertionError

    def ping(self) -> None:
        raise AssertionError

    def abort(self) -> None:
        raise AssertionError

    def close_with_farewell(self, code: int, reason: str, why: Ending) -> None:
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
    monitor = ConnectionMonitor(LIMITS)
    connections = [Dismissed(clock) for _ in range(count)]
    for connection in connections:
        monitor.add(connection)
    begun_at = clock.now
    monitor.close_all(1012, "bye", "stop", 1.0)
    told = sorted(connection.told_at - begun_at for connection in connections)
    assert told[0] < 0.001 and told[-1] <= 1.01
    assert told[-1] > min(0.9, 0.01 * (count - 1)), "and not all at once"


def test_who_takes_next_to_nothing_goes_when_much_is_owed(clock: Clock) -> None:
    """The largest charge first, and no more of them than it takes. Who takes enough stays, however much it owes."""
    budget = SendBudget(12 << 20)
    monitor = ConnectionMonitor(LIMITS, budget)
    good, small, large = [Pair(budget=budget) for _ in range(3)]
    try:
        for pair, mib in ((good, 4), (small, 1), (large, 3)):
            monitor.add(pair.websocket)
            pair.write(1, mib << 20)
        assert budget.bytes == 8 << 20

        def look() -> None:
            for pair in (good, small, large):
                pair.websocket.drop_if_lost(clock.now)
            monitor.shed_slow_clients()
            settle()

        look()
        for _ in range(7):
            clock.now += 1
            good.take(4 * STEP)
            look()
        assert not any(pair.websocket.closed for pair in (good, small, large))  # as long as there is room
        more = BudgetCharge(budget)
        more.set_bytes(1 << 20)
        look()
        assert [pair.websocket.closed for pair in (good, small, large)] == [False, False, True]
        until(lambda: budget.bytes == 6 << 20)
        look()
        assert not small.websocket.closed
        more.set_bytes(6 << 20)
        look()
        assert [pair.websocket.closed for pair in (good, small)] == [False, True]
    finally:
        for pair in (good, small, large):
            pair.close()


def test_an_address_that_owes_much_loses_its_own_slow_clients(clock: Clock) -> None:
    """While there is room in all, nobody else's go."""
    budget = SendBudget(16 << 20)
    monitor = ConnectionMonitor(LIMITS, budget)
    mine, others = budget.of_address("10.0.0.1:1"), budget.of_address("10.0.0.2:1")
    pairs = [Pair(budget=mine), Pair(budget=mine), Pair(budget=others)]
    try:
        for pair, mib in zip(pairs, (5, 1, 5), strict=True):
            monitor.add(pair.websocket)
            pair.write(1, mib << 20)
        for _ in range(3):
            clock.now += 1
            for pair in pairs:
                pair.websocket.drop_if_lost(clock.now)
            monitor.shed_slow_clients()
            settle()
        assert [pair.websocket.closed for pair in pairs] == [True, False, False]
        assert not budget.is_high_without(0)
    finally:
        for pair in pairs:
            pair.close()
