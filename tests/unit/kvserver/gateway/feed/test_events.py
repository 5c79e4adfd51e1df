"""What clients of `/v1/feed` ask for, see and get, piece by piece."""

from __future__ import annotations

import json
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvserver.access.grants import EVERYTHING, Grants
from kvserver.api.feed_query import OPS, FeedQuery, parse_feed_query
from kvserver.gateway.feed import conflation, encodings, envelopes
from kvserver.gateway.feed.conflation import Survivors
from kvserver.gateway.feed.encodings import JSON, MESSAGE_PACK
from kvserver.gateway.feed.envelopes import Room
from kvserver.gateway.feed.events import Block, Event, Item, Line, Message, block_of
from kvserver.gateway.feed.filters import filter_of
from kvserver.gateway.feed.follow import Follow
from kvserver.gateway.feed.selection import Selection
from kvserver.gateway.feed.snapshots import Page
from kvserver.gateway.history.index import EVERY, Index
from kvserver.gateway.sessions.admission import Places
from kvserver.gateway.wal.tail import Position
from shards.log.records import DATA, HEADER, Record
from shards.wire.clock import Now
from shards.wire.errors import BadRequest, Forbidden, Overloaded
from shards.wire.protocol import (
    Activity,
    ActivityKind,
    Atomic,
    Change,
    DeleteEvent,
    PrefixMarked,
    PutEvent,
    TouchEvent,
    encode_events,
)

T = 1_795_000_000_123


def event(change: Change, revision: int = 57, unit: int = 0) -> Event:
    return Event(change, revision, unit or revision, Now(T, T))


# Wishes


def test_a_wish() -> None:
    assert parse_feed_query(b"") == FeedQuery()
    assert parse_feed_query(
        b"prefix=a%2F&prefix=b&ops=put,delete:expire&values=false&activity=true&since=x.1&wait=55"
    ) == FeedQuery((b"a/", b"b"), frozenset({"put", "delete:expire"}), False, True, b"x.1", wait_s=55)
    assert parse_feed_query(b"ops=delete").ops == {op for op in OPS if op.startswith("delete:")}
    assert parse_feed_query("since=é".encode()).since == b"?"
    assert parse_feed_query(b"since=") == FeedQuery()
    assert parse_feed_query(b"key=a&key=a%2Fb") == FeedQuery((), keys=(b"a", b"a/b"))
    assert parse_feed_query(b"key=a&prefix=b&prefix=") == FeedQuery((b"b", b""), keys=(b"a",))
    assert len(parse_feed_query(b"&".join([b"key=a"] * 32 + [b"prefix=b"] * 32)).keys) == 32


@pytest.mark.parametrize(
    "text",
    [
        b"since=1&since=2",
        b"%73ince=1&since=2",
        b"wait=-1",
        b"wait=56",
        b"ops=",
        b"ops=put,",
        b"ops=delete:",
        b"values=1",
        b"prefixes=a",
        b"snapshot",
        b"&".join([b"prefix=a"] * 65),
        b"prefix=" + b"a" * 512,
        b"key=",
        b"key=" + b"a" * 512,
        b"key=%ff",
        b"&".join([b"key=a"] * 65),
        b"&".join([b"prefix=a"] * 33 + [b"key=a"] * 32),
    ],
)
def test_what_is_no_wish(text: bytes) -> None:
    with pytest.raises(BadRequest):
        parse_feed_query(text)


# Filters

NARROW = Grants.of("narrow", "1", [("feed", b"a/"), ("feed", b"b"), ("read", b"")])


def test_one_sees_what_one_wants_as_far_as_one_may() -> None:
    def seen(wish: FeedQuery, grants: Grants = EVERYTHING) -> tuple[tuple[bytes, ...], set[bytes]]:
        selection = filter_of(wish, grants).selection
        return selection.prefixes, set(selection.keys)

    assert seen(FeedQuery()) == ((b"",), set())
    assert seen(FeedQuery((b"a/b", b"a/", b"c"))) == ((b"a/", b"c"), set())
    assert seen(FeedQuery(), NARROW) == ((b"a/", b"b"), set())
    assert seen(FeedQuery((b"a", b"bc")), NARROW) == ((b"a/", b"bc"), set())
    assert seen(FeedQuery((), keys=(b"x", b"a/b", b"x"))) == ((), {b"x", b"a/b"})
    assert seen(FeedQuery((b"a/",), keys=(b"x", b"a/b", b"a"))) == ((b"a/",), {b"x", b"a"})
    assert seen(FeedQuery((), keys=(b"x", b"a/b", b"b")), NARROW) == ((), {b"a/b", b"b"})
    assert seen(FeedQuery((b"x",), keys=(b"bc",)), NARROW) == ((), {b"bc"})
    for wish in (
        FeedQuery((b"c",)),
        FeedQuery((b"A",)),
        FeedQuery((b"aa",)),
        FeedQuery((), keys=(b"a", b"c")),
        FeedQuery((b"c",), keys=(b"d",)),
    ):
        with pytest.raises(Forbidden):
            filter_of(wish, NARROW)
    with pytest.raises(Forbidden):
        filter_of(FeedQuery(), Grants.of("none", "2", [("read", b"")]))


def test_a_key_is_no_prefix() -> None:
    """Of the key alone: neither what begins with it, nor what is done to all that begins with it."""
    shown = filter_of(FeedQuery((), keys=(b"a",), activity=True), EVERYTHING)
    assert shown.shows(event(PutEvent(b"a", b"", "", 0))) and shown.shows(event(DeleteEvent(b"a", "expire")))
    assert not shown.shows(event(PutEvent(b"ab", b"", "", 0))) and not shown.shows(event(PutEvent(b"", b"", "", 0)))
    assert not shown.shows(event(PrefixMarked(b"a"))) and not shown.shows(event(PrefixMarked(b"")))
    told = [kind for kind in get_args(ActivityKind) if shown.shows_line(Activity(0, kind, b"a", 0))]
    assert told == ["read", "delete", "heartbeat"]


@settings(deadline=None)
@given(
    st.lists(st.sampled_from([b"a", b"ab", b"b", b"c"]), max_size=30),
    st.sets(st.sampled_from([b"a", b"ab", b"x"])),
    st.integers(0, 31),
)
def test_events_of_keys_are_found_without_looking_at_others(puts: list[bytes], keys: set[bytes], after: int) -> None:
    events = [event(PutEvent(key, b"", "", 0), revision) for revision, key in enumerate(puts, 1)]
    block = Block(0, len(events), 0, events)
    found = list(block.of(keys, after))
    wanted = [each for each in events if each.key in keys and each.revision > after]
    assert [each for each in found if each.key in keys] == wanted
    assert found == wanted or len(events) <= 8


def test_filters_that_show_the_same_have_one_name() -> None:
    """And a place in a snapshot is good under one of them alone."""
    same = [filter_of(FeedQuery((b"a/b", b"a/")), EVERYTHING), filter_of(FeedQuery((b"a/",)), EVERYTHING)]
    assert same[0].name == same[1].name and same[0].crc == same[1].crc
    wishes = [
        FeedQuery(),
        FeedQuery(ops=frozenset({"put"})),
        FeedQuery(values=False),
        FeedQuery(activity=True),
        FeedQuery((b"a", b"b")),
        FeedQuery((b"a",), keys=(b"b",)),
        FeedQuery((), keys=(b"a", b"b")),
        FeedQuery((), keys=(b"a",)),
    ]
    assert len({filter_of(wish, EVERYTHING).name for wish in wishes}) == len(wishes)
    wanted = [
        FeedQuery(),
        FeedQuery((b"a/",)),
        FeedQuery((b"a/", b"b")),
        FeedQuery((b"a/",), keys=(b"b",)),
        FeedQuery((), keys=(b"a/", b"b")),
        FeedQuery((), keys=(b"b",)),
        FeedQuery((), keys=(b"b", b"c")),
    ]
    crcs = {filter_of(wish, grants).crc for wish in wanted for grants in (EVERYTHING, NARROW)}
    assert len(crcs) == 2 * len(wanted)
    assert (
        filter_of(FeedQuery((), keys=(b"a", b"b")), EVERYTHING).crc
        == filter_of(FeedQuery((), keys=(b"b", b"a")), EVERYTHING).crc
    )


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (Activity(0, "read", b"a/k", 0), True),
        (Activity(0, "read", b"c", 0), False),
        (Activity(0, "list", b"", 0), False),
        (Activity(0, "list_prefix", b"a", 0), False),
        (Activity(0, "list_prefix", b"a/x", 0), True),
        (Activity(0, "delete_all", b"", 0), False),
        (Activity(0, "heartbeat", b"127.0.0.1:5", 0), False),
    ],
)
def test_activity_is_shown_where_all_of_it_may_be_seen(line: Activity, shown: bool) -> None:
    assert filter_of(FeedQuery(activity=True), NARROW).shows_line(line) == shown
    assert filter_of(FeedQuery(activity=True), EVERYTHING).shows_line(line)


# Messages


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            PutEvent(b"a/b", b'{"n":1}', "application/json", 0),
            '{"op":"put","key":"a/b","revision":57,"time":"2026-11-18T11:06:40.123Z",'
            '"content_type":"application/json","expires":null,"value":"{\\"n\\":1}"}',
        ),
        (
            PutEvent(b"img", b"\x89P", "", 1000),
            '{"op":"put","key":"img","revision":57,"time":"2026-11-18T11:06:40.123Z",'
            '"content_type":"application/octet-stream","expires":"1970-01-01T00:00:01.000Z","size":2,'
            '"value_base64":"iVA="}',
        ),
        (
            TouchEvent("é\n".encode(), 0),
            '{"op":"touch","key":"é\\n","revision":57,"time":"2026-11-18T11:06:40.123Z","expires":null}',
        ),
        (
            DeleteEvent(b"k", "evict", 5),
            '{"op":"delete","key":"k","revision":57,"time":"2026-11-18T11:06:40.123Z","cause":"evict"}',
        ),
    ],
)
def test_an_event_in_json(change: Change, text: str) -> None:
    assert JSON.event(event(change), True).decode() == text


@settings(deadline=None)
@given(
    key=st.text(min_size=1, max_size=20).filter(lambda text: "\0" not in text),
    value=st.binary(max_size=50),
    expires_ms=st.sampled_from([0, 1000]),
    values=st.booleans(),
    count=st.sampled_from([0, 1, 15, 16, 70_000]),
)
def test_messagepack_says_the_same(key: str, value: bytes, expires_ms: int, values: bool, count: int) -> None:
    put = event(PutEvent(key.encode(), value, "t/t", expires_ms))
    item = Item(key.encode(), 5, T, expires_ms, "t/t", value, len(value))
    for plain, packed in (
        (JSON.event(put, values), MESSAGE_PACK.event(put, values)),
        (JSON.item(item, values), MESSAGE_PACK.item(item, values)),
    ):
        left, right = json.loads(plain), msgspec.msgpack.decode(packed)
        given = right.pop("value", None)
        assert given == (value if values else None)
        for name in ("value", "value_base64", "size"):
            left.pop(name, None)
            right.pop(name, None)
        assert left == right
    whole = MESSAGE_PACK.envelope("events", b"e.1", "events", [MESSAGE_PACK.event(put, values)] * count)
    told = msgspec.msgpack.decode(whole)
    assert (told["type"], told["cursor"], len(told["events"])) == ("events", "e.1", count)


def test_frames_of_plain_http() -> None:
    message = Message(b"e.1", JSON.message({"type": "bookmark", "text": "a\r\nb"}))
    assert encodings.sse(message, b"~w") == b'id: e.1~w\ndata: {"type":"bookmark","text":"a\\r\\nb"}\n\n'
    assert encodings.ndjson(message).count(b"\n") == 1
    answer = json.loads(encodings.poll_answer(b"e.2", True, [message, message]))
    assert (answer["cursor"], answer["more"], len(answer["messages"])) == ("e.2", True, 2)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 30)), max_size=30))
def test_an_envelope_has_room_for_whole_units(units: list[tuple[int, int]]) -> None:
    """For the first one always; then as long as neither count nor size is passed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(envelopes, "MOST_EVENTS", 8)
        patch.setattr(envelopes, "MOST_BYTES", envelopes._AROUND + 100)
        room = Room()
    taken = 0
    for number, (count, size) in enumerate(units, 1):
        if not all(room.add(b"x" * size, number) for _ in range(count)):
            break
        taken = number
    fitting = 0
    for number in range(1, len(units) + 1):
        parts = [size for count, size in units[:number] for _ in range(count)]
        if number > 1 and (len(parts) > 8 or sum(parts) + len(parts) > 100):
            break
        fitting = number
    assert taken == fitting == room.unit
    assert len(room.parts) == sum(count for count, _ in units[:taken])


# Conflation


def blocks(changes: list[Change]) -> list[Block]:
    events = [event(change, revision) for revision, change in enumerate(changes, 1)]
    return [Block(i, i + 1, 0, [each]) for i, each in enumerate(events)]


def in_order(changes: list[Change]) -> list[Event]:
    return [event for block in blocks(changes) for event in block.events]


def left(changes: list[Change], shows: Any = lambda event: True) -> list[int]:
    found = Survivors(in_order(changes), len(changes), shows)
    return [each.revision for block in blocks(changes) for each in block.events if each in found]


def test_of_each_key_the_latest_put_or_delete_and_the_latest_touch_after_it() -> None:
    a, b = PutEvent(b"a", b"", "", 0), PutEvent(b"b", b"", "", 0)
    touch, gone = TouchEvent(b"a", 5), DeleteEvent(b"a", "request")
    assert left([a, touch, a, touch, touch, b]) == [3, 5, 6]
    assert left([touch, a]) == [2]
    assert left([touch, touch]) == [2]
    assert left([a, gone, touch]) == [2, 3]
    assert left([a, PrefixMarked(b"a"), gone, PrefixMarked(b"")]) == [2, 3, 4]
    assert left([a, b, a, gone], lambda event: event.op == "put") == [2, 3]


def test_only_so_many_keys_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conflation, "MOST_KEYS", 2)
    puts: list[Change] = [PutEvent(b"%d" % (i % 3), b"", "", 0) for i in range(9)]
    found = Survivors(in_order(puts), 9, lambda event: True)
    assert found.end == 2 and found.all


# What is shared, and where things are


def test_a_block_tells_what_belongs_together() -> None:
    put = PutEvent(b"k", b"v", "", 0)
    payload = encode_events([put, Atomic([put, put, put]), put])
    record = Record(DATA, 0, 5, 0, HEADER + len(payload), 0, 11, T, payload)
    block = block_of([record], 10, record.end)
    assert [(each.revision, each.unit) for each in block.events] == [(11, 11), (12, 14), (13, 14), (14, 14), (15, 15)]
    assert (block.begin, block.end) == (10, 15)
    assert [each.revision for each in block.after(13)] == [14, 15]


def test_what_is_shared_is_bounded() -> None:
    block = blocks([PutEvent(b"k", b"v", "", 0)])[0]
    for name in range(1000):
        block.share(str(name), 0, Message(b"", b"x" * 100), 1)
    assert sum(block.find(str(name), 0) is not None for name in range(1000)) * 400 <= block.weight + 2048
    block = blocks([PutEvent(b"k", b"v", "", 0)])[0]
    for name in range(1000):  # what is nothing for each of many takes room, too
        block.share(str(name), 0, None, 1)
    assert sum(block.find(str(name), 0) is not None for name in range(1000)) * 300 <= block.weight + 2048


@settings(deadline=None)
@given(st.lists(st.integers(1, 3 * EVERY), max_size=40), st.integers(0, 60))
def test_the_index_leads_to_a_place_before(steps: list[int], revision: int) -> None:
    index, place = Index(), Position(0, 0)
    for step in steps:
        index.note(place)
        place = Position(place.lsn + step, place.revision + 1)
    found = index.before(revision)
    if found is not None:
        assert found.revision <= revision
        assert found.lsn == sum(steps[: found.revision])
        wanted = sum(steps[: min(revision, max(len(steps) - 1, 0))])
        assert wanted - found.lsn < 4 * EVERY
    index.forget(place.lsn + 1)
    assert len(index) == 0


def test_what_is_noted_late_leads_to_what_is_before_all_others() -> None:
    """A gateway that has just begun knows its own place first, and that of older records when it is asked."""
    index = Index()
    index.note(Position(1000, 50))
    assert index.before(49) is None
    index.note(Position(0, 10))
    assert index.before(49) == Position(0, 10) and index.before(9) is None
    assert index.before(50) == Position(1000, 50)


def test_places_are_given_back() -> None:
    places = Places(3, 2)
    back = [places.take("10.0.0.1:1"), places.take("10.0.0.1:2")]
    with pytest.raises(Overloaded, match="2 feeds"):
        places.take("10.0.0.1:3")
    other = places.take("[::1]:4")
    with pytest.raises(Overloaded, match="3 clients"):
        places.take("10.0.0.2:1")
    for give_back in (*back, other):
        give_back()
    for _ in range(2):
        places.take("10.0.0.1:1")


def test_the_last_eighth_of_the_places_is_for_who_has_few() -> None:
    """An IPv6 network of 64 bits is one address."""
    places = Places(32, 0)
    for port in range(28):
        places.take(f"[fd00::{port}]:{port}")
    with pytest.raises(Overloaded, match="last eighth"):
        places.take("[fd00::1:1]:1")
    for host in ("[fd00:0:0:1::1]", "10.0.0.1"):
        for port in range(2):
            places.take(f"{host}:{port}")
        with pytest.raises(Overloaded, match="last eighth" if host != "10.0.0.1" else "32 clients"):
            places.take(f"{host}:3")


# Activity between changes


class Told:
    """A history that is at hand, with lines of activity."""

    epoch = "e"

    def __init__(self, changes: list[Change], lines: list[Line]) -> None:
        self._blocks = blocks(changes)
        self._lines = lines
        self.dropped = 0

    def shown(self) -> int:
        return len(self._blocks)

    watermark = end = shown

    def oldest(self) -> int:
        return 1

    def now_ms(self) -> int:
        return T

    def gave_out(self, revision: int) -> bool:
        return True

    def after(self, revision: int) -> Block:
        return self._blocks[revision]

    def page(self, selection: Selection, after: bytes, values: bool) -> Page:
        raise NotImplementedError

    def lines(self, number: int) -> tuple[int, Line | None]:
        number = max(number, self.dropped)
        return (number + 1, self._lines[number]) if number < len(self._lines) else (len(self._lines), None)


def test_activity_stands_where_it_happened() -> None:
    """Behind the changes before it, before those after it; what does not pass the filter is passed over."""
    puts: list[Change] = [PutEvent(b"a%d" % i, b"", "", 0) for i in range(1, 5)]
    lines: list[Line] = []
    told = Told(puts, lines)
    follow = Follow(told, filter_of(FeedQuery((b"a",), activity=True), EVERYTHING), JSON, FeedQuery(since=b"e.0"))
    for place, key in ((0, b"a"), (2, b"b"), (2, b"ax"), (2, b"ay"), (4, b"az")):
        lines.append(Line(Activity(place, "read", key, T), place))
    found: list[Any] = []
    while (message := follow.next()) is not None:
        body = json.loads(message.body)
        found.append(body.get("key") or [each["revision"] for each in body["events"]])
        assert body["cursor"] == message.cursor.decode() == follow.cursor.decode()
    assert found == ["a", [1], [2], "ax", "ay", [3], [4], "az"]


def test_a_mark_is_activity() -> None:
    changes: list[Change] = [PutEvent(b"a", b"", "", 0), PrefixMarked(b"a"), DeleteEvent(b"a", "prefix", 2)]
    told = Told(changes, [])
    told._blocks = [Block(0, 3, 0, [event(change, revision) for revision, change in enumerate(changes, 1)])]
    told.shown = lambda: 3  # type: ignore[method-assign]
    told.after = lambda revision: told._blocks[0]  # type: ignore[method-assign]
    told.end = lambda: 3  # type: ignore[method-assign]

    def types(wish: FeedQuery) -> list[tuple[str, str]]:
        follow = Follow(told, filter_of(wish, EVERYTHING), JSON, wish)
        found = []
        while (message := follow.next()) is not None:
            found.append((json.loads(message.body)["type"], message.cursor.decode()))
        return found

    assert types(FeedQuery(since=b"e.0")) == [("events", "e.3")]
    assert types(FeedQuery(since=b"e.0", activity=True)) == [("events", "e.1"), ("activity", "e.2"), ("events", "e.3")]
