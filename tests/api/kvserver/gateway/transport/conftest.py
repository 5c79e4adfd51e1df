"""A clock that the test moves, and one connection."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kvserver.gateway.transport import monitor, outlet, scheduling, websocket
from tests.api.kvserver.gateway.transport.pairs import Clock, Pair


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (monitor, outlet, scheduling, websocket):
        monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def pair(clock: Clock) -> Iterator[Pair]:
    pair = Pair()
    yield pair
    pair.close()
