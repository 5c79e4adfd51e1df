"""A follower of a history at hand, and a WebSocket that notes what it is told, for the tests of sessions."""

from __future__ import annotations

from collections import Counter
from typing import Any

from kvserver.gateway.history.catch_up import CatchUpTurns
from kvserver.gateway.history.shared import HistoryObserver
from shards.wire.protocol import Change, PutEvent
from tests.unit.kvserver.gateway.feed.histories import Told


class Clock:
    """Stands for the module `time`."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


class FakeFollower:
    """Has some puts of one key."""

    largest_answer = 1000

    def __init__(self, changes: int = 3) -> None:
        self.counts: Counter[str] = Counter()
        puts: list[Change] = [PutEvent(b"k", b"%d" % number, "", 0) for number in range(1, changes + 1)]
        self.history: Any = Told(puts, [])
        self.history.is_near = lambda revision: True  # nobody waits for a turn
        self.turns = CatchUpTurns()
        self.observers: set[HistoryObserver] = set()
        self.reported: list[tuple[str, bytes]] = []

    def add_observer(self, observer: HistoryObserver) -> None:
        self.observers.add(observer)

    def remove_observer(self, observer: HistoryObserver) -> None:
        self.observers.discard(observer)

    def report_activity(self, kind: str, subject: bytes) -> None:
        self.reported.append((kind, subject))


class FakeWebSocket:
    """Its client is gone when somebody receives."""

    peer = "10.0.0.1:5"
    closed = is_ending = False

    def __init__(self) -> None:
        self.source: Any = None
        self.on_answer: Any = None
        self.farewell: Any = None
        self.calls: list[tuple[Any, ...]] = []

    def receive(self) -> None:
        self.calls.append(("receive",))

    def ping(self) -> None:
        self.calls.append(("ping",))

    def wake(self) -> None:
        self.calls.append(("wake",))

    def send(self, message: bytes, binary: bool) -> None:
        self.calls.append(("send", message, binary))

    def close(self, code: int, reason: str = "") -> None:
        self.calls.append(("close", code, reason))

    def close_with_farewell(self, code: int, reason: str, why: str) -> None:
        self.calls.append(("close_with_farewell", code, reason, why))


class FakeStream:
    """Notes how it is ended."""

    is_gone = is_ending = False

    def __init__(self) -> None:
        self.source: Any = None
        self.farewell: Any = None
        self.calls: list[tuple[Any, ...]] = []

    def wake(self) -> None:
        self.calls.append(("wake",))

    def end(self) -> None:
        self.calls.append(("end",))

    def close_with_farewell(self, code: int, reason: str, why: str) -> None:
        self.calls.append(("close_with_farewell", code, reason, why))
