"""Whatever happens between a store, its gateways and a client, the client loses nothing and gets nothing twice.

Shards append, apply and are trimmed; gateways are somewhere behind; clients read, break off at any moment, and come
back with any cursor they ever got, at any gateway. What a client has is compared with the store after each message.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, rule

from kvserver.access.grants import EVERYTHING
from kvserver.api.feed_query import OPS, FeedQuery
from kvserver.gateway.feed import conflation, envelopes, follow, snapshots
from kvserver.gateway.feed.cursors import Cursor, parse
from kvserver.gateway.feed.encodings import JSON
from kvserver.gateway.feed.events import Block, Item, Line, block_of
from kvserver.gateway.feed.filters import filter_of
from kvserver.gateway.feed.follow import Follow, Overtaken, poll
from kvserver.gateway.feed.selection import Selection
from kvserver.gateway.feed.snapshots import Page, Part, read_page
from shards.log.records import DATA, HEADER, NO_SHARD, START, Record
from shards.wire.errors import Unavailable
from shards.wire.protocol import (
    Atomic,
    Change,
    DeleteEvent,
    Event,
    PrefixMarked,
    PutEvent,
    TouchEvent,
    count_changes,
    encode_events,
)
from tests import effort

SHARDS = 2
EPOCH = "e"
BASE = 100
KEYS = [b"a", b"a/b", b"a/c", b"b", b"b/a", b"c", "é".encode(), b"x"]
WANTED: list[tuple[tuple[bytes, ...], tuple[bytes, ...]]] = [
    ((b"",), ()),
    ((b"a",), ()),
    ((b"a/", b"c"), ()),
    ((b"a/", b"b", "é".encode()), ()),
    ((b"zzz",), ()),
    ((), (b"b",)),
    ((), (b"a", b"b/a", b"x", b"nothing")),
    ((b"a/",), (b"a", b"x", b"a/b")),
    ((b"b",), (b"a/c", b"a")),
]
"""Prefixes and keys."""

Held = tuple[int, str, str | None]
"""What a key holds: revision, value, expiry."""


@pytest.fixture(autouse=True, scope="module")
def small() -> Any:
    """Limits that few events reach."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (envelopes, follow):
            patch.setattr(module, "MOST_EVENTS", 3)
        patch.setattr(follow, "_NEAR", 3)
        patch.setattr(conflation, "MOST_KEYS", 3)
        patch.setattr(snapshots, "PAGE_ITEMS", 2)
        yield


class Store:
    """The log, the maps of its shards, and what the store held at each revision."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.units: dict[int, int] = {}
        self.changes: dict[int, Change] = {}
        self.states: dict[int, dict[bytes, Held]] = {BASE: {}}
        self.open: dict[int, Record] = {}
        self.maps: list[dict[bytes, Item]] = [{} for _ in range(SHARDS)]
        self.applied = [BASE] * SHARDS
        self.trimmed = 0  # records that are gone
        self.has_maps = True

    @property
    def end(self) -> int:
        return self.records[-1].next_revision - 1 if self.records else BASE

    @property
    def oldest(self) -> int:
        return self.records[self.trimmed].revision if self.trimmed < len(self.records) else self.end + 1

    def watermark(self) -> int:
        return min([self.end, *(record.revision - 1 for record in self.open.values())])

    def append(self, shard: int, events: list[Event]) -> None:
        lsn = self.records[-1].end if self.records else 0
        payload, count = encode_events(events), count_changes(events)
        first = self.end + 1
        record = Record(DATA, shard, count, lsn, lsn + HEADER + len(payload), 0, first, first, payload)
        self.records.append(record)
        self.open[shard] = record
        revision = first
        for event in events:
            changes = event.changes if isinstance(event, Atomic) else [event]
            last = revision + len(changes) - 1
            for change in changes:
                self.units[revision] = last
                self.changes[revision] = change
                self.states[revision] = after(self.states[revision - 1], revision, change)
                revision += 1

    def restart(self, jump: int) -> None:
        lsn, first = (self.records[-1].end if self.records else 0), self.end + 1 + jump
        self.states[first - 1] = self.states[self.end]
        self.records.append(Record(START, NO_SHARD, 0, lsn, lsn + HEADER, 0, first, first, b""))
        self.applied = [first - 1] * SHARDS

    def apply(self, shard: int) -> None:
        record = self.open.pop(shard)
        held = self.maps[shard]
        for revision in range(record.revision, record.next_revision):
            change = self.changes[revision]
            if isinstance(change, PutEvent):
                size = len(change.value)
                held[change.key] = Item(change.key, revision, revision, change.expires_ms, "t/t", change.value, size)
            elif isinstance(change, TouchEvent):
                held[change.key] = held[change.key]._replace(revision=revision, expires_ms=change.expires_ms)
            elif isinstance(change, DeleteEvent):
                held.pop(change.key, None)
        self.applied[shard] = record.next_revision - 1


def after(state: dict[bytes, Held], revision: int, change: Change) -> dict[bytes, Held]:
    """What the store holds after `change`."""
    state = dict(state)
    if isinstance(change, PutEvent):
        state[change.key] = (revision, change.value.decode(), expiry(change.expires_ms))
    elif isinstance(change, TouchEvent):
        state[change.key] = (revision, state[change.key][1], expiry(change.expires_ms))
    elif isinstance(change, DeleteEvent):
        state.pop(change.key, None)
    return state


def expiry(expires_ms: int) -> str | None:
    return f"1970-01-01T00:00:00.{expires_ms:03}Z" if expires_ms else None


def shard_of(key: bytes) -> int:
    return KEYS.index(key) % SHARDS


class Gateway:
    """One gateway's view."""

    epoch = EPOCH

    def __init__(self, store: Store) -> None:
        self.store = store
        self.position = store.watermark()
        self.records_in_block = 1
        self.page_limit = 1
        self.blocks: dict[tuple[int, int], Block] = {}

    def shown(self) -> int:
        return self.position

    def watermark(self) -> int:
        return self.store.watermark()

    def end(self) -> int:
        return self.store.end

    def oldest(self) -> int:
        return self.store.oldest

    def now_ms(self) -> int:
        return 0

    def advance(self, count: int) -> None:
        """Show some more records."""
        if self.position < self.store.oldest - 1:
            self.position = self.store.watermark()
        for record in self.store.records:
            if record.next_revision - 1 <= self.store.watermark() and record.revision > self.position and count:
                self.position = record.next_revision - 1
                count -= 1

    def gave_out(self, revision: int) -> bool:
        return True  # `test_lost_branches` is about those that are not there

    def after(self, revision: int) -> Block:
        records = self.store.records
        at = next(i for i, record in enumerate(records) if record.next_revision > revision + 1)
        if at < self.store.trimmed:
            raise Overtaken
        part = [r for r in records[at : at + self.records_in_block] if r.next_revision - 1 <= self.position]
        key = (part[0].revision, part[-1].next_revision)
        if key not in self.blocks:
            begin = records[at - 1].next_revision - 1 if at else part[0].revision - 1
            self.blocks[key] = block_of(part, begin, part[-1].end)
        assert self.blocks[key].end > revision, "it would be asked for again and again"
        return self.blocks[key]

    def page(self, selection: Selection, after: bytes, values: bool) -> Page:
        if not self.store.has_maps:
            raise Unavailable
        return read_page(self.parts, self.part_of_key, selection, after)

    def part_of_key(self, key: bytes) -> Part:
        shard = shard_of(key) if key in KEYS else 0
        held = self.store.maps[shard]
        return Part([held[key]] if key in held else [], False, self.store.applied[shard])

    def parts(self, prefix: bytes, after: bytes) -> list[Part]:
        parts = []
        for held, applied in zip(self.store.maps, self.store.applied, strict=True):
            items = [held[key] for key in sorted(held) if key.startswith(prefix) and key > after]
            parts.append(Part(items[: self.page_limit], len(items) > self.page_limit, applied))
        return parts

    def lines(self, number: int) -> tuple[int, Line | None]:
        return 0, None


@dataclass
class Copy:
    """What a client has, at a cursor. `base`: behind which revision its list of what it saw begins."""

    base: int
    seen: tuple[int, ...] = ()
    held: dict[bytes, Held] = field(default_factory=dict)
    complete: bool = True  # whether it is a copy of the store, and not only of what changed since
    begun: bool = False  # a page of the snapshot has come


class Client:
    """A client that may come and go."""

    def __init__(self, wish: FeedQuery) -> None:
        self.wish = wish
        self.filter = filter_of(wish, EVERYTHING)
        self.copies: dict[bytes, Copy] = {}
        self.copy = Copy(0)
        self.at = b""  # the last cursor
        self.follow: Follow | None = None
        self.gateway: Gateway | None = None


class Following(RuleBasedStateMachine):
    """The store, two gateways, some clients."""

    clients: Bundle[Client] = Bundle("clients")

    def __init__(self) -> None:
        super().__init__()
        self.store = Store()
        self.everybody: list[Client] = []

    @initialize(puts=st.lists(st.sampled_from(KEYS), max_size=8, unique=True), trims=st.booleans())
    def fill(self, puts: list[bytes], trims: bool) -> None:
        for key in puts:
            self.append(shard_of(key), [("put", KEYS.index(key), 0)], False)
            self.store.apply(shard_of(key))
        if trims:
            self.store.trimmed = len(self.store.records) // 2
        self.gateways = [Gateway(self.store), Gateway(self.store)]

    # The store

    @rule(
        shard=st.integers(0, SHARDS - 1),
        ops=st.lists(
            st.tuples(
                st.sampled_from(["put", "put", "touch", "delete", "expire", "mark"]),
                st.integers(0, len(KEYS) - 1),
                st.integers(0, 9),
            ),
            min_size=1,
            max_size=6,
        ),
        atomic=st.booleans(),
    )
    def append(self, shard: int, ops: list[tuple[str, int, int]], atomic: bool) -> None:
        """A shard decides on keys of its own, by what it has appended."""
        if shard in self.store.open:
            return
        live = {key for key in self.store.states[self.store.end] if shard_of(key) == shard}
        events: list[Change] = []
        for op, index, number in ops:
            key = KEYS[index - index % SHARDS + shard]
            if op == "put":
                events.append(PutEvent(key, b"v%d" % len(events), "t/t", number))
                live.add(key)
            elif op == "mark" and not atomic:
                events.append(PrefixMarked(key))
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

    @rule(gateway=st.integers(0, 1), count=st.integers(1, 4), block=st.integers(1, 3), page=st.integers(1, 3))
    def show(self, gateway: int, count: int, block: int, page: int) -> None:
        self.gateways[gateway].advance(count)
        self.gateways[gateway].records_in_block = block
        self.gateways[gateway].page_limit = page

    @rule(jump=st.sampled_from([0, 1, 50]))
    def restart(self, jump: int) -> None:
        """Everybody comes back afterwards, to gateways that begin where the store is."""
        for shard in list(self.store.open):
            self.store.apply(shard)
        for client in self.everybody:
            client.copies[client.at] = client.copy
        self.store.restart(jump)
        self.gateways = [Gateway(self.store), Gateway(self.store)]
        for client in self.everybody:
            self.connect(client, 0, client.at)

    @rule(count=st.integers(1, 3))
    def trim(self, count: int) -> None:
        """What is not applied is never trimmed."""
        for record in self.store.records[self.store.trimmed : self.store.trimmed + count]:
            if record.next_revision - 1 <= self.store.watermark():
                self.store.trimmed += 1

    @rule(there=st.sampled_from([True, True, True, False]))
    def lose_maps(self, there: bool) -> None:
        self.store.has_maps = there

    @rule(
        client=clients,
        steps=st.lists(
            st.tuples(
                st.sampled_from(["put", "put", "touch", "delete"]), st.integers(0, len(KEYS) - 1), st.integers(0, 3)
            ),
            min_size=2,
            max_size=12,
        ),
    )
    def write_while_somebody_reads(self, client: Client, steps: list[tuple[str, int, int]]) -> None:
        """The gateway is now and then behind the maps: a page has to wait, and to be brought up to date."""
        self.store.has_maps = True
        assert client.gateway is not None
        for op, index, count in steps:
            self.apply(index % SHARDS)
            self.append(index % SHARDS, [(op, index, count)], False)
            self.apply(index % SHARDS)
            self.take(client)
            if count == 3:
                client.gateway.advance(2)

    # Clients

    @rule(
        target=clients,
        gateway=st.integers(0, 1),
        wanted=st.sampled_from(WANTED),
        ops=st.sampled_from([OPS, OPS, frozenset({"put", "delete:expire"})]),
        snapshot=st.booleans(),
        conflate=st.booleans(),
    )
    def come(
        self,
        gateway: int,
        wanted: tuple[tuple[bytes, ...], tuple[bytes, ...]],
        ops: frozenset[str],
        snapshot: bool,
        conflate: bool,
    ) -> Client:
        prefixes, keys = wanted
        shown = OPS if snapshot else ops
        client = Client(FeedQuery(prefixes, shown, True, False, None, snapshot, conflate, keys=keys))
        self.everybody.append(client)
        self.connect(client, gateway, None)
        return client

    def connect(self, client: Client, gateway: int, cursor: bytes | None) -> None:
        client.gateway = self.gateways[gateway]
        client.follow = Follow(client.gateway, client.filter, JSON, client.wish._replace(since=cursor))
        client.at = cursor or client.follow.cursor
        if cursor is not None:
            client.copy = client.copies[cursor]
            return
        at = parse(client.follow.cursor)
        assert at is not None
        if client.wish.snapshot:
            client.copy = Copy(at.revision)
        else:
            client.copy = Copy(at.revision, held=dict(self.store.states[at.revision]))
        client.copies[client.follow.cursor] = client.copy

    @rule(client=clients, gateway=st.integers(0, 1), data=st.data())
    def come_back(self, client: Client, gateway: int, data: st.DataObject) -> None:
        """With any cursor ever got; whatever was under way is lost."""
        self.connect(client, gateway, data.draw(st.sampled_from(sorted(client.copies))))

    @rule(client=clients, count=st.integers(1, 12))
    def read(self, client: Client, count: int) -> None:
        for _ in range(count):
            if not self.take(client):
                return

    @rule(client=clients, gateway=st.integers(0, 1), data=st.data())
    def ask(self, client: Client, gateway: int, data: st.DataObject) -> None:
        """A poll, with any cursor."""
        self.connect(client, gateway, data.draw(st.sampled_from(sorted(client.copies))))
        assert client.follow is not None
        answer = poll(client.follow)
        for message in answer.messages:
            self.receive(client, json.loads(message.body))
        self.settle(client, answer.cursor)
        self.connect(client, gateway, answer.cursor)

    def take(self, client: Client) -> bool:
        assert client.follow is not None and client.gateway is not None
        has_everything = client.follow.has_everything
        message = client.follow.next()
        assert message is None or not has_everything
        if message is None:
            self.settle(client, client.follow.cursor)
            if not client.follow.in_snapshot and client.gateway.position >= parse_revision(client.follow.cursor):
                self.check_copy(client, client.follow.cursor)
            return False
        told = json.loads(message.body)
        assert told["cursor"].encode() == message.cursor
        self.receive(client, told)
        behind = client.follow.bookmark().cursor
        if behind != message.cursor:  # what followed of the snapshot holds nothing by now: the client is further
            assert client.follow.in_snapshot
            self.settle(client, behind)
            if not client.wish.conflate:
                self.check_copy(client, behind)
        return True

    def settle(self, client: Client, cursor: bytes) -> None:
        """`cursor` was given to the client."""
        client.copies[cursor], client.at = client.copy, cursor
        self.check_seen(client, cursor)

    def receive(self, client: Client, told: dict[str, Any]) -> None:
        cursor = told["cursor"].encode()
        at = parse(cursor)
        assert at is not None and at.text() == cursor
        if told["type"] == "gap":
            self.forget(client, told, at)
        elif told["type"] == "events":
            assert len(told["events"]) > 0
            self.change(client, told["events"], at)
        elif told["type"] == "snapshot":
            assert told.get("first", False) == (not client.copy.begun)
            self.add(client, told["items"])
        elif told["type"] == "snapshot_end":
            assert at.last is None
            client.copy = replace(client.copy, base=at.revision, seen=())
        client.copies[cursor], client.at = client.copy, cursor
        self.check_seen(client, cursor)
        if not client.wish.conflate:
            self.check_copy(client, cursor)

    def forget(self, client: Client, told: dict[str, Any], at: Cursor) -> None:
        assert told["reason"] == "trimmed" and parse_revision(client.at) < self.store.oldest - 1
        oldest = parse(told["oldest"].encode())
        assert oldest is not None and oldest.revision < self.store.oldest  # it may have been trimmed since
        if told["snapshot"]:
            assert at.last == b""
            client.copy = Copy(at.revision)
        else:
            assert at == oldest
            client.copy = Copy(at.revision, held=dict(self.store.states[at.revision]))

    def change(self, client: Client, events: list[dict[str, Any]], at: Cursor) -> None:
        held, seen = dict(client.copy.held), list(client.copy.seen)
        units = [self.store.units[event["revision"]] for event in events]
        assert len(events) <= 3 or len(set(units)) == 1
        assert all(unit <= at.revision for unit in units)
        for event in events:
            key, revision = event["key"].encode(), event["revision"]
            assert not seen or seen[-1] < revision
            seen.append(revision)
            change = self.store.changes[revision]
            assert change.key == key  # type: ignore[union-attr]
            if event["op"] == "put":
                held[key] = (revision, event["value"], event["expires"])
            elif event["op"] == "touch":
                held[key] = (revision, held[key][1], event["expires"])
            else:
                held.pop(key, None)
        client.copy = replace(client.copy, held=held, seen=tuple(seen))

    def add(self, client: Client, items: list[dict[str, Any]]) -> None:
        held = dict(client.copy.held)
        for item in items:
            assert item["key"].encode() not in held
            held[item["key"].encode()] = (item["revision"], item["value"], item["expires"])
        client.copy = replace(client.copy, held=held, begun=True)

    # What holds

    def check_seen(self, client: Client, cursor: bytes) -> None:
        """Of what passes the filter all, once, in order."""
        at = parse(cursor)
        assert at is not None
        if client.wish.conflate or at.last is not None:
            return
        due = [
            revision
            for revision, change in self.store.changes.items()
            if client.copy.base < revision <= at.revision and passes(client, change)
        ]
        assert list(client.copy.seen) == due

    def check_copy(self, client: Client, cursor: bytes) -> None:
        """The copy is the store at the cursor's revision, as far as its last key."""
        at = parse(cursor)
        assert at is not None
        if client.wish.ops != OPS:
            return
        store = self.store.states[at.revision]
        wanted = {
            key: held
            for key, held in store.items()
            if is_wanted(client.wish, key) and (at.last is None or key <= at.last)
        }
        has = {key: held for key, held in client.copy.held.items() if is_wanted(client.wish, key)}
        assert has == wanted

    def teardown(self) -> None:
        """Everything settles."""
        if not hasattr(self, "gateways"):
            return
        for shard in list(self.store.open):
            self.store.apply(shard)
        self.store.has_maps = True
        for gateway in self.gateways:
            gateway.advance(len(self.store.records))
            gateway.records_in_block = 3
        for client in self.everybody:
            for _ in range(10 * (self.store.end - BASE) + 100):
                if not self.take(client):
                    break
            assert client.follow is not None and not client.follow.in_snapshot
            assert parse_revision(client.follow.cursor) == self.store.end


def parse_revision(cursor: bytes) -> int:
    at = parse(cursor)
    assert at is not None
    return at.revision


def passes(client: Client, change: Change) -> bool:
    match change:
        case PutEvent(key):
            op = "put"
        case TouchEvent(key):
            op = "touch"
        case DeleteEvent(key, cause):
            op = f"delete:{cause}"
        case _:
            return False
    return op in client.wish.ops and is_wanted(client.wish, key)


def is_wanted(wish: FeedQuery, key: bytes) -> bool:
    return key in wish.keys or any(key.startswith(prefix) for prefix in wish.prefixes)


TestFollowing = Following.TestCase
TestFollowing.settings = settings(max_examples=effort.times(20), stateful_step_count=50, deadline=None)
