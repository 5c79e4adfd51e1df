"""Turns of greenlets."""

from __future__ import annotations

import gevent  # type: ignore[import-untyped]
import pytest

from kvserver.gateway.transport import scheduling


class Clock:
    """Stands for the module `time`."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


def test_others_run_only_after_a_long_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, ran = Clock(), list[str]()
    monkeypatch.setattr(scheduling, "time", clock)
    monkeypatch.setattr(scheduling, "_loop_clock", scheduling._LoopClock())
    scheduling.breathe()
    gevent.spawn(ran.append, "other")
    clock.now += 0.009
    scheduling.breathe()
    assert not ran
    clock.now += 0.002
    scheduling.breathe()
    assert ran == ["other"]
    gevent.spawn(ran.append, "third")
    scheduling.breathe()
    assert ran == ["other"], "the loop has just had its turn"
    gevent.sleep(0)
