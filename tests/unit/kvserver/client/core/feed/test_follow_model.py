"""`Follow` and `Copy` with the server's own `FeedState` as the other end: copy equals store, and nothing comes twice.

Shards append, apply and are trimmed; two gateways are somewhere behind; connections break at any byte, or are closed,
or fall silent, or are refused; each time the watch comes back to one of the gateways, as it likes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from kvserver.access.grants import EVERYTHING
from kvserver.api.feed_query import parse_feed_query
from kvserver.client.changes import Delete, Envelope, Put, Reset, Synced, Touch
from kvserver.client.core.feed.copy import Copy
from kvserver.client.core.feed.follow import Connect, Disconnect, Follow, FollowStep, Pause, Read
from kvserver.client.core.feed.wish import FEED, wish_of
from kvserver.client.core.values import moment_text
from kvserver.client.errors import CannotConnect, KVError, NotAnswered, Unavailable
from kvserver.gateway.feed import conflation, envelopes, follow, runs, snapshots
from kvserver.gateway.feed.cursors import parse
from kvserver.gateway.feed.encodings import JSON, ndjson_line
from kvserver.gateway.feed.filters import filter_of
from kvserver.gateway.feed.follow import FeedState
from shards.wire.protocol import Atomic, Change, DeleteEvent, PutEvent, TouchEvent
from tests import effort
from tests.unit.kvserver.gateway.feed.test_follow import BASE, KEYS, SHARDS, Gateway, Held, Store, shard_of

WANTED: list[tuple[list[str], list[str]]] = [
    ([], []),
    (["a"], []),
    (["a/", "é"], []),
    ([], ["b"]),
    (["b"], ["a", "x", "a/c"]),
    (["zzz"], []),
]
"""Prefixes and keys."""


@pytest.fixture(autouse=True, scope="module")
def small() -> Any:
    """Limits that few events reach."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (envelopes, follow):
            patch.setattr(module, "MOST_EVENTS", 3)
        patch.setattr(runs, "_NEAR", 3)
        patch.setattr(conflation, "MOST_KEYS", 3)
        patch.setattr(snapshots, "PAGE_ITEMS", 2)
        yield


class Nothing(Exception):
    """The server has nothing for the watch now."""


class Watcher:
    """A watch, its shell, and its copy."""

    def __init__(self, wanted: tuple[list[str], list[str]], snapshot: bool, conflate: bool, connect: Any) -> None:
        self.now = 0.0
        self.wish = wish_of(*wanted, snapshot=snapshot, conflate=conflate)
        self.wanted, self.conflates = wanted, conflate
        self.follow = Follow(self.wish, lambda: self.now, lambda: 0.5, on_gap="continue")
        self.copy = Copy()
        self.server: FeedState | None = None
        self.pending = b""
        self.breaks: KVError | None = None
        self.waits = False
        self._connect: Callable[[Watcher, str], KVError | None] = connect
        self.seen: list[int] = []
        self.resets = 0

    def next(self) -> Envelope | None:
        """The next envelope; None: the server has none now."""
        script = self.follow.next_envelope()
        result: Any = None
        try:
            while True:
                step = script.send(result)
                result = self.carry_out(step)
        except StopIteration as end:
            envelope: Envelope = end.value
            return envelope
        except Nothing:
            return None

    def carry_out(self, step: FollowStep) -> Any:
        if isinstance(step, Connect):
            return self._connect(self, step.target)
        if isinstance(step, Read):
            return self.read(step.seconds)
        if isinstance(step, Disconnect):
            self.server, self.pending, self.breaks = None, b"", None
        elif isinstance(step, Pause):
            self.now += step.seconds
        return None

    def read(self, seconds: float) -> bytes | KVError:
        assert self.server is not None
        if not self.pending and self.breaks is None:
            message = self.server.next_message()
            if message is None:
                raise Nothing
            self.pending = ndjson_line(message)
        if not self.pending:
            error, self.breaks = self.breaks, None
            assert error is not None
            return error
        size = max(1, len(self.pending) // 2)  # a line never comes at once
        data, self.pending = self.pending[:size], self.pending[size:]
        return data


class Watching(RuleBasedStateMachine):
    """The store, two gateways, some watches."""

    def __init__(self) -> None:
        super().__init__()
        self.store = Store()
        self.watchers: list[Watcher] = []
        self.refusals: list[KVError] = []
        self.at = 0

    @initialize(
        puts=st.lists(st.sampled_from(KEYS), max_size=8, unique=True),
        asks=st.lists(st.tuples(st.sampled_from(WANTED), st.booleans()), min_size=1, max_size=3),
        conflate=st.booleans(),
    )
    def fill(self, puts: list[bytes], asks: list[tuple[tuple[list[str], list[str]], bool]], conflate: bool) -> None:
        for key in puts:
            self.append(shard_of(key), [("put", KEYS.index(key), 0)], False)
            self.store.apply(shard_of(key))
        self.gateways = [Gateway(self.store), Gateway(self.store)]
        for wanted, snapshot in asks:
            self.watchers.append(Watcher(wanted, snapshot, conflate, self.connect))

    def connect(self, watcher: Watcher, target: str) -> KVError | None:
        """What the gateway makes of the request."""
        if self.refusals:
            return self.refusals.pop()
        path, _, text = target.partition("?")
        assert path == FEED
        query = parse_feed_query(text.encode())
        assert query.since == (watcher.follow.cursor.encode() if watcher.follow.cursor else None)
        watcher.server = FeedState(self.gateways[self.at], filter_of(query, EVERYTHING), JSON, query)
        watcher.pending = b""
        return None

    # The store

    @rule(
        shard=st.integers(0, SHARDS - 1),
        ops=st.lists(
            st.tuples(
                st.sampled_from(["put", "put", "touch", "delete", "expire"]),
                st.integers(0, len(KEYS) - 1),
                st.integers(0, 9),
            ),
            min_size=1,
            max_size=6,
        ),
        atomic=st.booleans(),
    )
    def write(self, shard: int, ops: list[tuple[str, int, int]], atomic: bool) -> None:
        self.append(shard, ops, atomic)

    def append(self, shard: int, ops: list[tuple[str, int, int]], atomic: bool) -> None:
        """A shard decides on keys of its own, by what it has appended."""
        if shard in self.store.open:
            return
        live = {key for key in self.store.states[self.store.end] if shard_of(key) == shard}
        events: list[Change] = []
        for op, index, number in ops:
            key = KEYS[index - index % SHARDS + shard]
            if op == "put":
                events.append(PutEvent(key, b"v%d" % number, "t/t", number))
                live.add(key)
            elif key in live and op == "touch":
                events.append(TouchEvent(key, number))
            elif key in live and op in ("delete", "expire"):
                events.append(DeleteEvent(key, "request" if op == "delete" else "expire"))
                live.remove(key)
        if events:
            self.store.append(shard, [Atomic(events)] if atomic else list(events))

    @rule(shard=st.integers(0, SHARDS - 1))
    def apply(self, shard: int) -> None:
        if shard in self.store.open:
            self.store.apply(shard)

    @rule(gateway=st.integers(0, 1), count=st.integers(1, 4), page=st.integers(1, 3))
    def show(self, gateway: int, count: int, page: int) -> None:
        self.gateways[gateway].advance(count)
        self.gateways[gateway].page_limit = page

    @rule(count=st.integers(1, 3))
    def trim(self, count: int) -> None:
        """What is not applied is never trimmed."""
        for record in self.store.records[self.store.trimmed : self.store.trimmed + count]:
            if record.next_revision - 1 <= self.store.watermark():
                self.store.trimmed += 1

    @rule(jump=st.sampled_from([0, 50]))
    def restart(self, jump: int) -> None:
        for shard in list(self.store.open):
            self.store.apply(shard)
        self.store.restart(jump)
        self.gateways = [Gateway(self.store), Gateway(self.store)]
        for watcher in self.watchers:
            watcher.breaks, watcher.pending = NotAnswered("reset"), b""

    # Connections

    @rule(at=st.integers(0, 1))
    def prefer_gateway(self, at: int) -> None:
        self.at = at

    @rule(error=st.sampled_from([CannotConnect("no"), Unavailable("busy"), NotAnswered("lost")]))
    def refuse(self, error: KVError) -> None:
        self.refusals.append(error)

    @rule(index=st.integers(0, 2), keeps=st.integers(0, 400))
    def break_connection(self, index: int, keeps: int) -> None:
        """At any byte of the next message."""
        watcher = self.watchers[index % len(self.watchers)]
        if watcher.server is not None and watcher.breaks is None:
            message = None if watcher.pending else watcher.server.next_message()
            watcher.pending = (ndjson_line(message) if message else watcher.pending)[:keeps]
            watcher.breaks = NotAnswered("reset")

    @rule(index=st.integers(0, 2), reason=st.sampled_from(["stop", "reload", "revoked"]))
    def close_connection(self, index: int, reason: Any) -> None:
        watcher = self.watchers[index % len(self.watchers)]
        if watcher.server is not None and watcher.breaks is None:
            watcher.pending += ndjson_line(watcher.server.closing_message(reason))
            watcher.breaks = NotAnswered("ended")

    @rule(index=st.integers(0, 2))
    def bookmark(self, index: int) -> None:
        watcher = self.watchers[index % len(self.watchers)]
        if watcher.server is not None and not watcher.pending and watcher.breaks is None:
            watcher.pending = ndjson_line(watcher.server.bookmark())

    # Watches

    @rule(index=st.integers(0, 2), count=st.integers(1, 12))
    def read(self, index: int, count: int) -> None:
        watcher = self.watchers[index % len(self.watchers)]
        for _ in range(count):
            envelope = watcher.next()
            if envelope is None:
                return
            self.receive(watcher, envelope)

    @rule(
        index=st.integers(0, 2),
        steps=st.lists(
            st.tuples(
                st.sampled_from(["put", "put", "touch", "delete"]), st.integers(0, len(KEYS) - 1), st.integers(1, 9)
            ),
            min_size=2,
            max_size=12,
        ),
        breaks=st.sampled_from(["", "", "break", "close", "trim"]),
        keeps=st.integers(0, 400),
    )
    def write_and_read(self, index: int, steps: list[tuple[str, int, int]], breaks: str, keeps: int) -> None:
        """Changes come one by one, and somewhere among them the connection ends, or the log is trimmed meanwhile."""
        for at, step in enumerate(steps):
            shard = step[1] % SHARDS
            self.apply(shard)
            self.append(shard, [step], False)
            self.apply(shard)
            for gateway in self.gateways:
                gateway.advance(2)
            if at == len(steps) // 2:
                if breaks == "break":
                    self.break_connection(index, keeps)
                elif breaks == "close":
                    self.close_connection(index, "stop")
                elif breaks == "trim":
                    self.break_connection(index, keeps)
                    self.trim(len(self.store.records))
            if breaks != "trim" or at < len(steps) // 2 or at == len(steps) - 1:
                self.read(index, 3)

    def receive(self, watcher: Watcher, envelope: Envelope) -> None:
        assert envelope.cursor == watcher.follow.cursor
        before = dict(watcher.copy.state)
        differences = watcher.copy.apply(envelope)
        for difference in differences:
            old = before.get(difference.key)
            assert (old and old.revision) == (difference.old and difference.old.revision)
            if difference.new is None:
                del before[difference.key]
            else:
                before[difference.key] = difference.new
        leads_to = {key: entry.revision for key, entry in before.items()}  # the model has no exact times
        assert leads_to == {key: entry.revision for key, entry in watcher.copy.state.items()}
        for change in envelope.changes:
            if isinstance(change, Reset):
                assert change.snapshot or not watcher.wish.snapshot
                watcher.seen.clear()
            elif isinstance(change, Synced):
                watcher.seen.clear()
            elif isinstance(change, (Put, Touch, Delete)) and getattr(change, "origin", "live") == "live":
                assert not watcher.seen or watcher.seen[-1] < change.revision, "nothing twice, nothing backwards"
                watcher.seen.append(change.revision)
        self.check_copy(watcher)

    def check_copy(self, watcher: Watcher) -> None:
        """The copy is the store at its cursor, which never lies within a snapshot."""
        copy = watcher.copy
        if not watcher.wish.snapshot or watcher.conflates or copy.cursor is None:
            return
        at = parse(copy.cursor.encode())
        assert at is not None and at.last is None
        assert held_by(copy) == self.wanted_of(watcher, at.revision)

    def wanted_of(self, watcher: Watcher, revision: int) -> dict[str, Held]:
        prefixes, keys = watcher.wanted
        return {
            key: held
            for raw, held in self.store.states[revision].items()
            if (key := raw.decode()) in keys
            or any(key.startswith(prefix) for prefix in prefixes)
            or not (prefixes or keys)
        }

    def teardown(self) -> None:
        """Everything settles."""
        if not hasattr(self, "gateways"):
            return
        for shard in list(self.store.open):
            self.store.apply(shard)
        for gateway in self.gateways:
            gateway.advance(len(self.store.records))
        for watcher in self.watchers:
            for _ in range(10 * (self.store.end - BASE) + 100):
                envelope = watcher.next()
                if envelope is None:
                    break
                self.receive(watcher, envelope)
            assert watcher.server is not None and not watcher.copy.is_building
            if watcher.wish.snapshot:
                assert held_by(watcher.copy) == self.wanted_of(watcher, self.store.end)


def held_by(copy: Copy) -> dict[str, Held]:
    return {
        key: (entry.revision, entry.text, moment_text(entry.expires) if entry.expires else None)
        for key, entry in copy.state.items()
    }


TestWatching = Watching.TestCase
TestWatching.settings = settings(max_examples=effort.times(40), stateful_step_count=50, deadline=None)
