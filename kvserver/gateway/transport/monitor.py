"""The monitor of a process's connections: pings them, drops lost and slow ones, closes all at the end."""

from __future__ import annotations

import time
from typing import Protocol

import gevent  # type: ignore[import-untyped]

from kvserver.gateway.transport.frames import Ending
from kvserver.gateway.transport.limits import ConnectionLimits
from kvserver.gateway.transport.outlet import Outlet
from kvserver.gateway.transport.scheduling import breathe
from kvserver.gateway.transport.send_budget import SendBudget


class Watchable(Protocol):
    """A connection, as its monitor sees it. None of its methods blocks.

    Attributes:
        outlet: its sending side.
    """

    outlet: Outlet

    def drop_if_lost(self, now: float) -> None:
        """End the connection if the client is gone. `now`: by the monotonic clock."""

    def ping(self) -> None:
        """Send a ping to the client."""

    def close_with_farewell(self, code: int, reason: str, why: Ending) -> None:
        """Write the farewell, then close."""

    def abort(self) -> None:
        """End the connection at once."""


class ConnectionMonitor:
    """Watches all connections of a process.

    Attributes:
        budget: what their clients have not taken.
    """

    def __init__(self, limits: ConnectionLimits, budget: SendBudget | None = None) -> None:
        self.budget = budget or SendBudget()
        self._limits = limits
        self._open: set[Watchable] = set()

    def __len__(self) -> int:
        return len(self._open)

    def add(self, connection: Watchable) -> None:
        """Watch `connection` from now on."""
        self._open.add(connection)

    def remove(self, connection: Watchable) -> None:
        """Watch `connection` no longer."""
        self._open.discard(connection)

    def run(self) -> None:
        """Check all connections about every second, and ping them all together every `ping_s`. Never returns.

        Together, because their answers, each of which may be shown to all of them, then travel together too.
        """
        pause = min(1.0, self._limits.ping_s, self._limits.stall_s / 4, self._limits.silence_s / 4)
        ping_at = time.monotonic() + self._limits.ping_s
        while True:
            gevent.sleep(pause)
            now = time.monotonic()
            is_time_to_ping = now >= ping_at
            if is_time_to_ping:
                ping_at = now + self._limits.ping_s
            for connection in list(self._open):
                connection.drop_if_lost(now)
                if is_time_to_ping:
                    connection.ping()
                breathe()
            self.shed_slow_clients()

    def shed_slow_clients(self) -> None:
        """End connections of clients that take next to nothing, where the budget of an address or of all is high."""
        given_back = 0
        for part in self.budget.high_parts():
            given_back += self._shed_from(part, [each for each in self._open if each.outlet.budget is part], 0)
        if self.budget.is_high_without(given_back):
            self._shed_from(self.budget, list(self._open), given_back)

    def _shed_from(self, budget: SendBudget, connections: list[Watchable], given_back: int) -> int:
        """End slow ones of `connections`, those with the most bytes first, until `budget` is no longer high.

        Returns `given_back` plus the bytes that the ended ones give back, which happens when their greenlets run.
        """
        for connection in sorted(connections, key=lambda each: each.outlet.slow_bytes, reverse=True):
            size = connection.outlet.slow_bytes
            if not size or not budget.is_high_without(given_back):
                break
            connection.abort()
            given_back += size
        return given_back

    def close_all(self, code: int, reason: str, why: Ending, within_s: float) -> None:
        """Close every connection, spread over at most `within_s` seconds so that not all clients return at once."""
        waiting = list(self._open)
        pause = min(0.01, within_s / max(1, len(waiting)))
        due_at = time.monotonic()
        for connection in waiting:
            connection.close_with_farewell(code, reason, why)
            due_at += pause
            early = due_at - time.monotonic()
            if early > 0:  # however long each takes, and a timer oversleeps: the last is in time
                gevent.sleep(early)
            else:
                breathe()

    def abort_all(self) -> None:
        """End every connection that is still open. Does not block."""
        for connection in list(self._open):
            connection.abort()
