"""What is remembered in a map on a real file: found, forgotten, replayed, loaded, and moved with the clock."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shards.log.records import DATA, NO_SHARD, START, Record, Start
from shards.maps import outcome_table
from shards.maps.owner import NOT_MINE, MapOwner
from shards.maps.storage import MapStorage
from shards.wire.clock import Now
from shards.wire.keys import SLOTS
from shards.wire.outcomes import HELD_MS, KEEP_MS
from shards.wire.protocol import Done, Outcome, TouchEvent, encode_events, encode_remembered

FINGERPRINT = b"f" * 16


def identity(number: int) -> bytes:
    return b"%018d" % number


def record_of(revision: int, steady_ms: int, *outcomes: Outcome, events: int = 1) -> Record:
    """A record of `events` events that change nothing, and of `outcomes`."""
    payload = encode_events([*[TouchEvent(b"absent", 0)] * events, *outcomes])
    return Record(DATA, 0, events, revision * 100, revision * 100 + 99, 0, revision, 1000, payload, steady_ms - 1000)


def outcome_of(number: int, at: int = 0, slot: int = 0, size: int = 0) -> Outcome:
    reply = encode_remembered(Done(~at, True))
    return Outcome(identity(number), FINGERPRINT, at, slot, False, reply + bytes(size))


def remembered(map: MapOwner, numbers: Sequence[int]) -> list[int]:
    return [number for number in numbers if map.find_outcome(identity(number))]


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ten outcomes, or 2,000 bytes."""
    monkeypatch.setattr(outcome_table, "KEEP_COUNT", 10)
    monkeypatch.setattr(outcome_table, "KEEP_BYTES", 2000)
    yield


def test_is_found_with_its_reply(map: MapOwner) -> None:
    assert map.find_outcome(identity(1)) is None
    map.apply([record_of(5, 7000, outcome_of(1, 0), outcome_of(2, 2), events=3)])
    found = [map.find_outcome(identity(number)) for number in (1, 2, 3)]
    assert [each and (each.decode_reply(), each.steady_ms, each.fingerprint) for each in found] == [
        (Done(5, True), 7000, FINGERPRINT),
        (Done(7, True), 7000, FINGERPRINT),
        None,
    ]
    map.check(1, 0)


def test_a_replay_remembers_nothing_twice(map: MapOwner) -> None:
    records = [record_of(1, 0, outcome_of(1)), record_of(2, 0, outcome_of(2))]
    map.apply(records)
    map.apply(records)
    map.apply(records, [0] * SLOTS)
    map.check(1, 0)
    assert remembered(map, range(4)) == [1, 2]


def test_is_forgotten_by_age(map: MapOwner) -> None:
    map.apply([record_of(number, number, outcome_of(number)) for number in range(1, 6)])
    map.apply([record_of(6, KEEP_MS + 3, outcome_of(6))])
    assert remembered(map, range(7)) == [4, 5, 6]
    map.check(1, 0)


def test_many_that_are_over_do_not_hold_up_one_group(map: MapOwner) -> None:
    map.apply([record_of(1, 0, *[outcome_of(number, number) for number in range(100)], events=100)])
    for revision, left in ((101, 82), (102, 64), (103, 46)):
        map.apply([record_of(revision, KEEP_MS, outcome_of(revision))])
        assert len(remembered(map, range(100))) == left
        map.check(1, 0)


@pytest.mark.usefixtures("limits")
@pytest.mark.parametrize(("size", "most"), [(0, 10), (300, 5)])
def test_is_forgotten_by_number_and_bytes_but_not_at_once(map: MapOwner, size: int, most: int) -> None:
    for number in range(1, 31):
        map.apply([record_of(number, number, outcome_of(number, size=size))])
    assert len(remembered(map, range(31))) == 30
    map.apply([record_of(31, HELD_MS + 30, outcome_of(31, size=size))])
    assert len(remembered(map, range(32))) == max(most, 31 - 18)
    map.apply([record_of(32, HELD_MS + 30, outcome_of(32, size=size))])
    assert remembered(map, range(33)) == list(range(33 - most, 33))
    map.check(1, 0)


@pytest.mark.usefixtures("limits")
def test_is_forgotten_at_once_where_the_map_is_full(map: MapOwner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MapStorage, "full", True)
    for number in range(1, 31):
        map.apply([record_of(number, number, outcome_of(number))])
    assert remembered(map, range(31)) == list(range(21, 31))
    map.check(1, 0)


@pytest.mark.usefixtures("limits")
def test_room_has_no_say_where_others_remember_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MapStorage, "full", True)
    map = MapOwner(tmp_path, follows_order=True)
    for number in range(1, 31):
        map.apply([record_of(number, number, outcome_of(number))])
    assert len(remembered(map, range(31))) == 30
    map.close()


def test_a_record_that_a_map_has_had_forgets_nothing_more(map: MapOwner) -> None:
    records = [record_of(1, 0, *[outcome_of(number, number) for number in range(100)], events=100)]
    records += [record_of(revision, KEEP_MS, outcome_of(revision)) for revision in (101, 102)]
    map.apply(records)
    assert len(remembered(map, range(103))) == 64 + 2
    map.apply(records, [102] * SLOTS)
    assert len(remembered(map, range(103))) == 64 + 2
    map.check(1, 0)


def test_an_identity_that_is_known_no_more_may_come_again(map: MapOwner) -> None:
    map.apply([record_of(1, 0, outcome_of(1)), record_of(2, KEEP_MS, outcome_of(1))])
    found = map.find_outcome(identity(1))
    assert found is not None and found.decode_reply() == Done(2, True)
    map.check(1, 0)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_of_one_identity_at_two_shards_the_later_stays(tmp_path: Path, order: tuple[int, int]) -> None:
    rows = []
    for number, revision in enumerate((3, 9)):
        (tmp_path / str(number)).mkdir()
        made = MapOwner(tmp_path / str(number))
        made.apply([record_of(revision, 0, outcome_of(1))])
        with made.storage.env.begin(made.storage.outcomes) as txn:
            rows.append(list(txn.cursor()))
        made.close()
    (tmp_path / "both").mkdir()
    both = MapOwner(tmp_path / "both")
    for number in order:
        both.load_outcomes(rows[number])
    found = both.find_outcome(identity(1))
    assert found is not None and found.decode_reply() == Done(9, True)
    both.apply([record_of(10, KEEP_MS, outcome_of(2))])
    assert remembered(both, [1, 2]) == [2]
    both.check(1, 0)
    both.close()


def test_only_outcomes_of_own_slots_above_their_floor(map: MapOwner) -> None:
    floors = [NOT_MINE] * SLOTS
    floors[5], floors[6] = 0, 2
    outcomes = [outcome_of(1, 0, 5), outcome_of(2, 1, 6), outcome_of(3, 2, 6), outcome_of(4, 3, 7)]
    map.apply([record_of(1, 0, *outcomes, events=4)], floors)
    assert remembered(map, range(5)) == [1, 3]


@pytest.mark.parametrize("reset_ms", [3_600_000, -3_600_000])
def test_a_reset_of_the_clock_moves_what_was_before(map: MapOwner, reset_ms: int) -> None:
    start = Start(store="s", epoch="e", boot_id="b", sync="os", version="1", reset_ms=reset_ms).encode()
    map.apply([record_of(1, 7_000_000, outcome_of(1))])
    map.apply([Record(START, NO_SHARD, 0, 500, 600, 0, 2, 1000, start)])
    found = map.find_outcome(identity(1))
    assert found is not None and found.steady_ms == 7_000_000 + reset_ms
    assert not found.is_over(Now(0, 7_000_000 + reset_ms + KEEP_MS - 1))
    map.check(1, 0)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(
    st.lists(st.tuples(st.integers(0, HELD_MS), st.lists(st.integers(0, 30), max_size=4, unique=True)), max_size=20),
    st.integers(0, 20),
)
def test_any_replay_remembers_what_the_shard_did(
    tmp_path_factory: pytest.TempPathFactory, groups: list[tuple[int, list[int]]], begun: int
) -> None:
    """Applied record by record, or some of it again, or all at once: it is the same."""
    records, revision, now_ms = [], 1, 0
    for passed_ms, numbers in groups:
        now_ms += passed_ms
        outcomes = [outcome_of(number, at) for at, number in enumerate(numbers)]
        records.append(record_of(revision, now_ms, *outcomes, events=len(numbers) + 1))
        revision += len(numbers) + 1
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outcome_table, "KEEP_COUNT", 6)
        for portions in ([[record] for record in records], [records[:begun], records[max(begun - 3, 0) :]], [records]):
            path = tmp_path_factory.mktemp("map")
            map = MapOwner(path)
            for portion in portions:
                map.apply(portion)
            map.apply(records[begun // 2 :], [revision - 1] * SLOTS)
            map.check(1, 0)
            with map.storage.env.begin(map.storage.outcomes) as txn:
                found.append(list(txn.cursor()))
            map.close()
    assert found[0] == found[1] == found[2]
