"""How a gateway's worker stops."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from kvserver.gateway import worker
from kvserver.gateway.worker import SocketWorker, end_after_s


class Clock:
    """A clock that this test turns."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.mark.parametrize(("closing_s", "most_s"), [(0.1, 1.3), (0.8, 1.3), (1.6, 2.6), (2.4, 3.0), (4.0, 4.5)])
def test_a_busy_machine_is_given_time(closing_s: float, most_s: float) -> None:
    assert end_after_s(closing_s) == pytest.approx(most_s)


def test_who_is_told_last_is_not_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long telling all clients takes: what they are told is written after that."""
    clock, waited = Clock(), list[float]()

    def tell(*_: Any) -> None:
        clock.now += 1.6

    monkeypatch.setattr(worker, "time", clock)
    stopping: Any = SocketWorker.__new__(SocketWorker)
    pool = SimpleNamespace(join=lambda timeout: waited.append(timeout), kill=lambda timeout: None)
    stopping.servers = [SimpleNamespace(shaking_hands=set(), pool=pool)]
    stopping.monitor = SimpleNamespace(close_all=tell, abort_all=lambda: None)
    stopping.notify = lambda: None
    stopping._close_all()
    assert waited == [pytest.approx(1.0)]
