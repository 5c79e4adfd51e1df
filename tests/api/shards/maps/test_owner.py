"""Maps on real files: what is applied is read, by its owner and by other processes."""

from __future__ import annotations

import os
import signal
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path

import lmdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shards.log.records import ORDER, OrderPosition, Record
from shards.maps import owner
from shards.maps.layout import TOTALS, MapError, read_meta
from shards.maps.owner import NOT_MINE, MapOwner
from shards.wire.clock import BEGINNING
from shards.wire.keys import SLOTS, slot_of
from shards.wire.protocol import Atomic, DeleteEvent, Event, Placed, PrefixMarked, TouchEvent, encode_events
from tests import effort
from tests.api.maps import Oracle, delete, entries_of, keys_of, process, put, record_of
from tests.api.shards.maps.tools import IDENTITY, apply
from tests.times import at

# What events do


def test_created_is_the_time_since_which_the_key_is_there(map: MapOwner) -> None:
    def created() -> int:
        item = map.get(b"k", BEGINNING)
        assert item is not None
        return item.created_ms

    apply(map, put(b"k"), revision=1, time_ms=1000)
    apply(map, put(b"k", expires_ms=5000), revision=2, time_ms=2000)
    assert created() == 1000
    apply(map, TouchEvent(b"k", 6000), revision=3, time_ms=3000)
    assert created() == 1000
    apply(map, put(b"k"), revision=4, time_ms=6000)  # it had expired at that very time
    assert created() == 6000
    apply(map, delete(b"k"), put(b"k"), revision=5, time_ms=7000)
    assert created() == 7000


def test_a_touch_changes_revision_and_expiry_alone(map: MapOwner) -> None:
    apply(map, put(b"k", b"value", "text/plain"), revision=1, time_ms=1000)
    before = map.get(b"k", at(1000))
    assert before is not None
    apply(map, TouchEvent(b"k", 9000), revision=2, time_ms=2000)
    assert map.get(b"k", at(1000)) == before._replace(revision=2, expires_ms=9000)


def test_the_place_in_the_order_is_that_of_the_last_record(map: MapOwner) -> None:
    assert map.place_in_order() is None
    records = [placed_put(1, 1000, Placed(4, 9, b"3")), order_of(4, 2000)]
    map.apply(records)
    assert map.place_in_order() == Placed(5, 0, b"state of 4")
    map.apply([placed_put(2, 3000, Placed(6, 3, b"5"))])
    assert map.place_in_order() == Placed(6, 3, b"5")
    map.apply(records)  # again: it does not go back
    assert map.place_in_order() == Placed(6, 3, b"5")
    event = put(b"live")
    map.apply_changes([event], record_of([event], 3, 5000), placed=Placed(7, 1, b"6"))
    assert map.place_in_order() == Placed(7, 1, b"6")


def placed_put(revision: int, lsn: int, placed: Placed) -> Record:
    """A record of one put that has a place in the order."""
    return record_of([put(b"k")], revision, lsn)._replace(payload=encode_events([put(b"k"), placed]))


def order_of(sequence: int, lsn: int) -> Record:
    """An ORDER record."""
    state = b"state of %d" % sequence
    payload = OrderPosition(sequence=sequence, state=state, shown_lsn=0, shown_revision=0).encode()
    return Record(ORDER, 0, 0, lsn, lsn + 64 + len(payload), lsn, 1, 1000, payload)


class Puts:
    """A transaction that notes the keys it puts."""

    def __init__(self, txn: lmdb.Transaction[memoryview]) -> None:
        self._txn, self.keys = txn, list[bytes]()
        self.get, self.delete = txn.get, txn.delete

    def put(self, key: bytes, record: bytes) -> bool:
        self.keys.append(key)
        return self._txn.put(key, record)


def test_a_group_writes_a_large_value_once_however_often_it_is_touched(map: MapOwner) -> None:
    size = owner._LARGE
    apply(
        map, put(b"a", bytes(size), "x/y"), put(b"b", bytes(size)), put(b"s", b"v"), put(b"d", bytes(size)), revision=1
    )
    events: list[Event] = [TouchEvent(key, 9000 + n) for n in range(50) for key in (b"a", b"b", b"s", b"d")]
    events += [put(b"b", b"new"), TouchEvent(b"b", 7000), delete(b"d"), TouchEvent(b"d", 1)]
    replaced: dict[int, tuple[bytes, str, int]] = {}
    with map._env.begin(map._data, write=True, buffers=True) as txn:
        noting = Puts(txn)
        owner._apply_events(noting, events, record_of(events, 10, 100), None, {210}, {}, replaced)  # type: ignore[arg-type]
    assert noting.keys.count(b"a") == 1 and noting.keys.count(b"d") == 0 and noting.keys.count(b"b") == 2
    assert replaced == {210: (bytes(size), "", 10 + 49 * 4 + 1)}
    items = {key: map.get(key, BEGINNING) for key in (b"a", b"b", b"s", b"d")}
    assert items[b"d"] is None
    assert items[b"a"] is not None and items[b"a"][:6] == (206, 1, 9049, 1000, 1000, "x/y")
    assert items[b"a"].value == bytes(size)
    assert items[b"b"] is not None and (items[b"b"].revision, items[b"b"].value) == (211, b"new")
    assert items[b"s"] is not None and items[b"s"].revision == 208


def test_previous_values_only_where_asked_and_live(map: MapOwner) -> None:
    apply(map, put(b"a", b"1"), put(b"b", b"2", "x/y", 1500), put(b"c", b"3", "x/y"), put(b"d", b""), revision=1)
    apply(map, TouchEvent(b"c", 9000), revision=5)
    replaced = apply(
        map,
        put(b"a", b"4"),
        put(b"b", b"5"),
        delete(b"c"),
        put(b"d"),
        put(b"e"),
        put(b"a", b"6"),
        revision=6,
        time_ms=2000,
        previous=(6, 7, 8, 9, 10, 11),
    )
    assert replaced == {6: (b"1", "", 1), 8: (b"3", "x/y", 5), 9: (b"", "", 4), 11: (b"4", "", 6)}
    assert apply(map, put(b"a"), delete(b"e"), revision=12, previous=()) == {}


def test_deletes_and_touches_of_what_is_not_there_change_nothing(map: MapOwner) -> None:
    apply(map, delete(b"a"), TouchEvent(b"b", 5), PrefixMarked(b""), revision=1)
    assert entries_of(map) == {}
    assert map.applied == (record_of([delete(b"a"), TouchEvent(b"b", 5), PrefixMarked(b"")], 1, 1000).end, 3)


def test_events_of_a_batch_take_a_revision_each(map: MapOwner) -> None:
    apply(map, put(b"a"), Atomic([put(b"b"), delete(b"a"), put(b"c")]), put(b"d"), revision=7)
    assert {key: entry[0] for key, entry in entries_of(map).items()} == {b"b": 8, b"c": 10, b"d": 11}
    assert map.applied[1] == 11


KEYS = [b"a", b"b", b"ab", b"{t}1", b"\xc3\xa4", b"k" * 511]
EVENTS = st.one_of(
    st.builds(
        put, st.sampled_from(KEYS), st.binary(max_size=8), st.sampled_from(["", "a/b"]), st.sampled_from([0, 5, 50])
    ),
    st.builds(TouchEvent, st.sampled_from(KEYS), st.sampled_from([0, 9, 90])),
    st.builds(DeleteEvent, st.sampled_from(KEYS), st.just("expire")),
    st.builds(PrefixMarked, st.just(b"a")),
)
GROUPS = st.lists(
    st.lists(st.one_of(EVENTS, st.builds(Atomic, st.lists(EVENTS, min_size=1, max_size=3))), min_size=1, max_size=4),
    min_size=1,
    max_size=8,
)


@pytest.mark.parametrize("large", [0, owner._LARGE])
@settings(max_examples=effort.times(20), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(groups=GROUPS, data=st.data())
def test_any_records_in_any_portions_replayed_from_anywhere(
    large: int, groups: list[list[Event]], data: st.DataObject
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, "_LARGE", large)
        check_any_records_in_any_portions(groups, data)


def check_any_records_in_any_portions(groups: list[list[Event]], data: st.DataObject) -> None:
    oracle, records, revision, lsn = Oracle(), [], 1, 0
    for time_ms, events in enumerate(groups):
        records.append(record_of(events, revision, lsn, time_ms * 10))
        oracle.apply(events, revision, time_ms * 10)
        revision, lsn = records[-1].next_revision, records[-1].end
    floors: list[int] | None = None
    if data.draw(st.booleans(), label="by slot"):
        mine = {slot_of(key) for key in data.draw(st.sets(st.sampled_from(KEYS)), label="mine")}
        floors = [0 if slot in mine else NOT_MINE for slot in range(SLOTS)]
        oracle.items = {key: item for key, item in oracle.items.items() if slot_of(key) in mine}
    with tempfile.TemporaryDirectory() as directory:
        map = MapOwner(Path(directory))
        at = 0
        while at < len(records):
            if floors is None and at:  # what is applied may be replayed, as after a kill before `open` was cleared
                map.apply(records[data.draw(st.integers(0, at), label="from") : at])
            portion = data.draw(st.integers(1, len(records) - at), label="portion")
            for key in data.draw(st.sets(st.sampled_from(KEYS)), label="looked up"):
                map.find_entry(key)  # as a shard does before it changes keys
            if floors is None and portion == 1:
                map.apply_changes(groups[at], records[at])
            else:
                map.apply(records[at : at + portion], floors)
            at += portion
        assert {key: map.get(key, BEGINNING) for key in entries_of(map)} == oracle.items
        assert map.applied == (lsn, revision - 1)
        sizes = [len(key) + item.size for key, item in oracle.items.items()]
        totals = len(sizes), sum(sizes), sum(item.expires_ms != 0 for item in oracle.items.values())
        assert map.totals == totals
        map.check(1, 0)
        map.close()
        map = MapOwner(Path(directory))
        assert map.totals == totals
        map.close()


def test_a_record_is_not_applied_twice(map: MapOwner) -> None:
    first, second = record_of([put(b"k", b"1")], 1, 0), record_of([put(b"k", b"2")], 2, 100)
    map.apply([first, second])
    map.apply([first])
    assert map.applied == (second.end, 2)
    assert [entry[0] for entry in entries_of(map).values()] == [2]


# What the owner can ask


def test_entries_range_and_check(map: MapOwner) -> None:
    apply(map, put(b"b", b"22"), put(b"aa", b"1", "x/y", 1001), put(b"ac"), put(b"ab"), revision=1)
    apply(map, TouchEvent(b"ab", 7000), revision=5)
    entries = entries_of(map)
    assert entries == {b"aa": (2, 2, 1001, 1), b"ab": (5, 4, 7000, 1), b"ac": (3, 3, 0, 1), b"b": (1, 1, 0, 2)}
    assert {key: map.find_entry(key) for key in entries} == entries
    assert [map.find_entry(key) for key in (b"x", b"", bytes(512), b"\xff")] == [None] * 4
    assert map.list_entries(b"a", b"", 2) == [(b"aa", entries[b"aa"]), (b"ab", entries[b"ab"])]
    assert map.list_entries(b"a", b"ab", 2) == [(b"ac", entries[b"ac"])]
    map.check(1, 0)


def test_what_was_looked_up_counts_until_the_next_record(map: MapOwner) -> None:
    assert map.find_entry(b"k") is None
    map.apply([record_of([put(b"k", b"123")], 1, 0, 1000)])
    event = put(b"k", b"45")
    map.apply_changes([event], record_of([event], 2, map.applied[0], 2000))
    item = map.get(b"k", BEGINNING)
    assert item is not None and item.created_ms == 1000
    assert map.totals == (1, 3, 0)


def test_no_more_is_remembered_of_lookups_than_a_group_needs(map: MapOwner) -> None:
    for number in range(owner._MOST_SEEN + 1):
        map.find_entry(b"%d" % number)
    assert len(map._seen) == 1


def test_a_survey_walks_over_all_keys_in_steps(map: MapOwner) -> None:
    apply(map, put(b"b", expires_ms=5), put(b"c"), put(b"a"), put(b"d", expires_ms=-7), revision=1)
    entries = entries_of(map)
    assert map.survey_entries(None, 2, True) == ([(b"b", entries[b"b"])], b"b")
    assert map.survey_entries(b"b", 2, True) == ([(b"d", entries[b"d"])], b"d")
    assert map.survey_entries(b"d", 2, True) == ([], None)
    assert map.survey_entries(b"a", 9, False) == ([(key, entries[key]) for key in (b"b", b"c", b"d")], None)


def rewrite_totals(map: MapOwner, totals: bytes) -> MapOwner:
    """Open the map again with other `totals` in it; b"": none."""
    with map._env.begin(map._meta, write=True) as txn:
        assert txn.put(b"totals", totals) if totals else txn.delete(b"totals")
    map.close()
    return MapOwner(map.path)


@pytest.mark.parametrize("totals", [b"", TOTALS.pack(1, 99, 9)], ids=["none", "of an earlier place"])
def test_totals_are_added_up_if_an_earlier_version_has_written_the_map(map: MapOwner, totals: bytes) -> None:
    apply(map, put(b"a", b"123", expires_ms=5), put(b"bb", b"4"), revision=1)
    again = rewrite_totals(map, totals)
    assert again.totals == (2, 7, 1)
    again.check(1, 0)
    again.close()


def test_check_finds_wrong_totals(map: MapOwner) -> None:
    apply(map, put(b"a"), revision=1)
    again = rewrite_totals(map, TOTALS.pack(map.applied[0], 99, 9))
    with pytest.raises(AssertionError, match="totals"):
        again.check(1, 0)
    again.close()


def test_totals_go_along_when_a_position_is_set(map: MapOwner) -> None:
    apply(map, put(b"a", b"123", expires_ms=5), put(b"bb", b"4"), revision=1)
    map.identify(IDENTITY, 500, 5)
    map.advance(600, 9)
    map.close()
    again = MapOwner(map.path)
    assert again.totals == (2, 7, 1)
    again.close()


def test_check_finds_keys_of_another_shard(map: MapOwner) -> None:
    apply(map, put(keys_of(1, 2, 1)[0]), revision=1)
    map.check(2, 1)
    with pytest.raises(AssertionError, match="belongs to shard 1"):
        map.check(2, 0)


def test_advance_moves_what_is_applied_forward_only(map: MapOwner) -> None:
    map.identify(IDENTITY, 500, 5)
    map.advance(400, 4)
    assert map.applied == (500, 5)
    map.advance(600, 9)
    map.close()
    assert read_meta(map.path) == (IDENTITY, (600, 9))


def test_a_map_that_is_cut_is_refused(map: MapOwner) -> None:
    apply(map, *[put(b"%d" % i, bytes(1000)) for i in range(100)], revision=1)
    map.identify(IDENTITY, 1, 1)
    map.close()
    data = map.path / "data.mdb"
    os.truncate(data, 20_000)
    with pytest.raises(MapError, match="not a complete map"):
        read_meta(map.path)
    data.unlink()
    with pytest.raises(MapError, match="cannot be read"):
        read_meta(map.path)


# Readers. LMDB opens an environment once per process, so either the owner has closed or the reader is another process.


def write_for_ever(connection: Connection, path: Path) -> None:
    """A shard that only applies: group n puts n under ten keys."""
    map = MapOwner(path)
    n = map.applied[1] // 10
    while True:
        n += 1
        events = [put(b"key-%d" % i, b"%d" % n + bytes(3000)) for i in range(10)]
        map.apply([record_of(events, 10 * n - 9, n)])
        if n % 20 == 0:
            connection.send(n)


def test_a_killed_writer_leaves_its_last_commit(place: Path) -> None:
    before = 0
    for _ in range(4):
        with process(write_for_ever, place) as (child, connection):
            assert connection.recv() > before
            connection.recv()
            os.kill(child.pid, signal.SIGKILL)
            child.join()
        map = MapOwner(place)
        applied = map.applied[1]
        found = {map.get(b"key-%d" % i, BEGINNING) for i in range(10)}
        assert {item.value.rstrip(b"\0") for item in found if item} == {b"%d" % (applied // 10)}
        assert sorted(item.revision for item in found if item) == list(range(applied - 9, applied + 1))
        map.close()
        before = applied // 10
