"""What a shard writes, without its sockets: groups, evictions, figures, and a log or a map without room."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from shards.host.board import NONE, Board
from shards.keys.eviction import Evictor
from shards.keys.keyspace import RECENT_KEYS, Keyspace
from shards.log.appender import LogAppender
from shards.log.files import LogFull
from shards.log.manifest import Manifest
from shards.maps.build import open_map
from shards.maps.layout import MapFull
from shards.maps.owner import MapOwner
from shards.maps.storage import MapStorage
from shards.server.loop import ShardServer
from shards.server.map_allowance import MAP_RESERVE, MapAllowance
from shards.server.writer import Writer, count_refusals
from shards.wire.clock import BEGINNING
from shards.wire.keys import MAX_TIME_MS
from shards.wire.protocol import (
    PROPOSED_KEYS,
    Condition,
    Delete,
    Deleted,
    DeleteEvent,
    DeletePrefix,
    Done,
    Evict,
    Expire,
    Failed,
    Incr,
    Put,
    PutEvent,
    Replaced,
    Reply,
    Results,
    Touch,
    Value,
)
from tests.api.maps import entries_of
from tests.api.shards.server.tools import Client, changes, check, client, logged, serving, turn_until, until, value
from tests.stores import Store, new_store
from tests.times import at

NOW = 1_700_000_000_000


@contextmanager
def writing(place: Path, **facts: Any) -> Iterator[tuple[Writer, Store]]:
    """A writer of the only shard of a new store, which is checked at the end."""
    store = new_store(place, shards=1, **facts)
    Manifest.create(store.data_dir).save(store.data_dir)
    board = Board.open(store.board.path)
    assert board.try_claim(board.shards[0])
    map, log = open_map(board, 0), LogAppender(board, 0)
    writer = Writer(board, 0, log, map)
    writer.maintain_map(board.watermark())
    yield writer, store
    writer.keyspace.check(entries_of(map))
    map.check(1, 0)
    log.close()
    map.close()
    board.close()
    store.close()


class TestWrite:
    def test_one_group_of_several_requests(self, place: Path) -> None:
        with writing(place) as (writer, store):
            replies = writer.write([[Put(b"a", b"1"), Put(b"b", b"2")], [Delete(b"a")], [Delete(b"x")]])
            assert replies == [[Done(1, False), Done(2, False)], [Done(3, True)], [Done(0, False)]]
            assert [record.events for record in logged(store)] == [3]
            assert [len(writer.announcements), writer.figures["operations"], writer.figures["groups"]] == [1, 4, 1]

    def test_what_a_full_group_did_not_take_is_left_to_the_caller(self, place: Path) -> None:
        with writing(place) as (writer, store):
            large = Put(b"a", bytes(2_500_000))
            replies = writer.write([[large, large, Delete(b"a")], [Delete(b"x")]], 5_000_100)
            assert [len(each) for each in replies] == [2, 0]
            assert [record.events for record in logged(store)] == [2]

    def test_touches_of_one_large_value_share_a_group_and_those_of_several_do_not(self, place: Path) -> None:
        with writing(place, max_value=6 << 20) as (writer, store):
            for key in (b"a", b"b"):
                writer.write([[Put(key, bytes(5 << 20), "a/b")]], 5 << 20)
            touches = [Touch(b"a", 1000 + number) for number in range(1000)]
            replies = writer.write([[*touches, Touch(b"b"), Touch(b"a")]])
            assert replies[0][-1] == Done(1002, True, None, replies[0][-1].expires_ms) and len(replies[0]) == 1000
            assert [len(each) for each in writer.write([[Touch(b"b"), Delete(b"x")]])] == [1]
            assert [record.events for record in logged(store)] == [1, 1, 1000, 1]
            with_value = writer._map.get(b"a", BEGINNING)
            assert with_value is not None and (with_value.revision, with_value.value_revision) == (1002, 1)
            assert (with_value.content_type, with_value.value) == ("a/b", bytes(5 << 20))

    @pytest.mark.parametrize("recent", [0, RECENT_KEYS])
    def test_what_is_left_to_the_map_is_found_there(
        self, place: Path, monkeypatch: pytest.MonkeyPatch, recent: int
    ) -> None:
        monkeypatch.setattr(Keyspace.forget_oldest, "__defaults__", (recent,))
        with writing(place) as (writer, _):
            writer.write([[Put(b"n", b"1", "a/b"), Put(b"k", b"v"), Put(b"gone", b"v")]])
            writer.write([[Delete(b"gone"), Touch(b"k", expires_ms=MAX_TIME_MS)]])
            assert len(writer.keyspace.recent) == (3 if recent else 0)
            replies = [writer.write([[operation]])[0][0] for operation in (Incr(b"n", 1), Delete(b"gone"), Touch(b"k"))]
            assert replies == [Value(6, True, b"2", "a/b"), Done(0, False), Done(7, True, None, 0)]
            puts = [Put(b"k", b"w", condition=Condition([revision]), want_previous=True) for revision in (2, 7)]
            [[refused, put_reply]] = writer.write([puts])
            assert isinstance(refused, Failed) and refused.revision == 7
            assert put_reply == Replaced(8, True, b"v", 0, "", 7)
            assert writer.keyspace.expiring == 0 and len(writer.keyspace) == 2

    def test_nothing_to_write_writes_nothing(self, place: Path) -> None:
        with writing(place) as (writer, store):
            assert writer.write([]) == []
            assert writer.write([[Delete(b"x"), Put(b"", b"")]]) == [
                [Done(0, False), Failed("bad_key", "the key is empty")]
            ]
            assert logged(store) == []
            assert (writer.figures["refused"], writer.figures["operations"]) == (1, 0)

    def test_a_prefix_delete_is_a_step_in_a_group_of_its_own(
        self, place: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("shards.server.writer.PREFIX_KEYS", 2)
        with writing(place) as (writer, store):
            writer.write([[Put(b"k%d" % number, b"v") for number in range(3)]])
            assert writer.write([[DeletePrefix(b"k", b"", 9, 9)]]) == [[Deleted([b"k0", b"k1"], b"k1")]]
            assert writer.write([[DeletePrefix(b"k", b"k1", 9, 9)]]) == [[Deleted([b"k2"], None)]]
            assert writer.write([[DeletePrefix(b"k", b"k2", 9, 9)]]) == [[Deleted([], None)]]
            assert [record.events for record in logged(store)] == [3, 2, 1]
            names = ("operations", "prefix_deletes", "deletes", "queue", "refused")
            assert [writer.figures[name] for name in names] == [5, 3, 0, 3, 0]
            [[refused]] = writer.write([[DeletePrefix(b"k", b"", 9, 0)]])
            assert isinstance(refused, Failed) and writer.figures["refused"] == 1


class TestDecide:
    """A message of an order, at the time that it has there."""

    def test_its_time_alone_counts(self, place: Path) -> None:
        with writing(place) as (writer, store):
            assert writer.decide([Put(b"a", b"1", ttl_ms=5), Put(b"b", b"2")], at(NOW)) == [
                Done(1, False, None, NOW + 5),
                Done(2, False),
            ]
            assert writer.decide([Touch(b"a", ttl_ms=7)], at(NOW + 4)) == [Done(3, True, None, NOW + 11)]
            assert writer.decide([Touch(b"a")], at(NOW + 11)) == [Done(0, False)]
            assert writer.decide([Put(b"a", b"")], at(NOW + 11)) == [Done(5, False)]
            assert [record.events for record in logged(store)] == [2, 1, 2]
            assert [record.now for record in logged(store)] == [at(NOW), at(NOW + 4), at(NOW + 11)]

    def test_keys_expire_by_proposal_alone_and_once(self, place: Path) -> None:
        with writing(place) as (writer, store):
            writer.decide([Put(key, b"", expires_ms=NOW + 5) for key in (b"b", b"a", b"c")], at(NOW))
            assert writer.list_due(at(NOW + 4)) is None
            proposed = writer.list_due(at(NOW + 5))
            assert proposed == writer.list_due(at(NOW + 5)) == Expire([(b"a", 2), (b"b", 1), (b"c", 3)])
            assert writer.list_due(at(NOW + 5), 2) == Expire([(b"a", 2), (b"b", 1)])
            assert writer.decide([Touch(b"b", expires_ms=NOW + 9)], at(NOW + 4)) == [Done(4, True, None, NOW + 9)]
            assert writer.decide([proposed], at(NOW + 4)) == [Done(0, False)], "by the message's time nothing is due"
            assert writer.decide([proposed, proposed], at(NOW + 5)) == [Done(6, True), Done(0, False)]
            assert [event for _, event in changes(store)][4:] == [
                DeleteEvent(b"a", "expire"),
                DeleteEvent(b"c", "expire"),
            ]
            assert writer.figures["expired"] == 2

    def test_keys_are_evicted_by_proposal(self, place: Path) -> None:
        with writing(place) as (writer, store):
            writer.decide([Put(b"a", b""), Put(b"b", b"", ttl_ms=5), Put(b"c", b"")], at(NOW))
            evict = Evict([(b"c", 3), (b"b", 2), (b"c", 3), (b"a", 9), (b"x", 1)])
            assert writer.decide([evict], at(NOW + 5)) == [Done(5, True)]
            assert [event for _, event in changes(store)][3:] == [
                DeleteEvent(b"c", "evict"),
                DeleteEvent(b"b", "expire"),
            ]

    def test_too_many_are_refused(self, place: Path) -> None:
        with writing(place) as (writer, _):
            proposed = [(b"k", 1)] * (PROPOSED_KEYS + 1)
            for refused in writer.decide([Expire(proposed), Evict(proposed)], at(NOW)):
                assert isinstance(refused, Failed) and refused.code == "protocol_error"
            assert writer.decide([Expire(proposed[1:])], at(NOW)) == [Done(0, False)]

    def test_what_is_too_much_for_a_group_becomes_several_records(self, place: Path) -> None:
        with writing(place) as (writer, store):
            large = Put(b"a", bytes(2_500_000))
            replies = writer.decide([large, large, DeletePrefix(b"", b"", 9, 9), large, Delete(b"x")], at(NOW))
            assert replies == [Done(1, False), Done(2, True), Deleted([b"a"], None), Done(4, False), Done(0, False)]
            assert [record.events for record in logged(store)] == [2, 1, 1]

    def test_room_and_the_machine_s_clock_do_not_count(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with writing(place) as (writer, store):
            store.board.log.full = 1
            monkeypatch.setattr(MapStorage, "free_bytes", lambda _: 0)
            writer.maintain_map(store.board.watermark())
            assert writer.decide([Put(b"a", b"1"), Incr(b"a", 9)], at(NOW)) == [Done(1, False), Value(2, True, b"10")]

    def test_what_cannot_be_logged_is_raised_and_undone(self, place: Path) -> None:
        with writing(place) as (writer, store):
            store.board.log.ready, store.board.log.full = store.board.history()[0], 1
            with pytest.raises(LogFull):
                writer.decide([Put(b"a", b"1")], at(NOW))
            assert len(writer.keyspace) == 0


class TestEvictionInSeveralGroups:
    """An operation that needs more evictions than one group may make."""

    @pytest.fixture(autouse=True)
    def one_key_a_group(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def evicting(stamps: memoryview[int], random: Callable[[], float]) -> Evictor:
            return Evictor(stamps, random, 1)

        monkeypatch.setattr("shards.server.writer.Evictor", evicting)

    def test_it_is_done_after_further_groups(self, place: Path) -> None:
        with writing(place, max_memory=40, on_full="evict") as (writer, store):
            writer.write([[Put(b"%d" % number, b"v" * 9) for number in range(4)]])
            [[before, large, after]] = writer.write([[Delete(b"x"), Put(b"k", b"v" * 29), Delete(b"x")]], 100)
            assert [before, after] == [Done(0, False)] * 2
            assert isinstance(large, Done) and large.revision == 8
            assert [record.events for record in logged(store)] == [4, 1, 1, 2]
            names = ("evicted", "refused", "operations", "queue")
            assert [writer.figures[name] for name in names] == [3, 0, 4 + 3, 4]

    def test_or_refused_after_as_many_as_there_may_be(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("shards.server.writer.EVICT_GROUPS", 2)
        with writing(place, max_memory=90, on_full="evict") as (writer, store):
            writer.write([[Put(b"%d" % number, b"v" * 9) for number in range(9)]])
            replies = writer.write([[Put(b"k", b"v" * 89), Delete(b"x")]], 100)
            assert [reply.code for [reply] in replies if isinstance(reply, Failed)] == ["overloaded"]
            assert [record.events for record in logged(store)] == [9, 1, 1, 1]
            assert (writer.figures["evicted"], writer.figures["refused"]) == (3, 1)


class TestFigures:
    def test_deletes_are_told_apart_by_their_cause(self, place: Path) -> None:
        with writing(place, max_memory=40, on_full="evict") as (writer, _):
            writer.write([[Put(b"a", b"v"), Put(b"b", b"v"), Put(b"e", b"", ttl_ms=1), Delete(b"a")]])
            until(lambda: writer.expiry_in_s(1.0) == 0, "due")
            writer.write([])
            writer.write([[DeletePrefix(b"b", b"", 9, 9)]])
            writer.write([[Put(b"c", b"v" * 39)]])
            writer.write([[Put(b"d", b"v" * 39)]], 100)
            names = ("deletes", "expired", "prefix_deletes", "evicted", "puts")
            assert [writer.figures[name] for name in names] == [1, 1, 1, 1, 5]
            assert writer.figures["expiry_lag_ms"] >= 0

    def test_refusals_are_counted_and_a_batch_is_one(self) -> None:
        replies: list[Reply] = [
            Done(1, True),
            Failed("bad_key", ""),
            Results([Done(2, True)]),
            Results([Failed("failed_dependency", ""), Failed("not_found", "")], 1),
        ]
        assert count_refusals(replies) == 2
        assert count_refusals([]) == 0


class TestMapAllowance:
    def test_it_is_estimated_between_measurements(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with writing(place) as (writer, _):
            allowance = MapAllowance(writer._map)
            monkeypatch.setattr(MapStorage, "free_bytes", lambda _: MAP_RESERVE + 300)
            allowance.measure()
            assert (allowance.bytes_left, allowance.admits(100), allowance.admits(101)) == (100, True, False)
            allowance.bytes_left -= 40
            assert (allowance.bytes_left, allowance.admits(60), allowance.admits(61)) == (60, True, False)

    def test_it_is_measured_when_it_seems_to_run_out(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with writing(place) as (writer, _):
            allowance = MapAllowance(writer._map)
            assert allowance.bytes_left == 0
            assert allowance.admits(1000)
            assert allowance.bytes_left > 1000


class TestNoSpace:
    @pytest.mark.parametrize(
        ("number", "code"),
        [
            (errno.ENOSPC, "insufficient_storage"),
            (errno.EDQUOT, "insufficient_storage"),
            (errno.EIO, "unavailable"),
            (errno.EROFS, "unavailable"),
            (errno.EMFILE, "unavailable"),
        ],
    )
    def test_only_want_of_space_is_told_as_such(
        self, asking: Client, server: ShardServer, monkeypatch: pytest.MonkeyPatch, number: int, code: str
    ) -> None:
        def fail(*_: object) -> None:
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patch:
            patch.setattr(LogAppender, "_write_parts", fail)
            [reply] = asking.ask(Put(b"a", b"1"))
        assert isinstance(reply, Failed)
        assert (reply.code, os.strerror(number) in reply.detail) == (code, True)
        check(server)
        assert isinstance(asking.do(Put(b"a", b"1")), Done)

    def test_failed_append_refuses_the_whole_group_and_undoes_it(
        self, asking: Client, server: ShardServer, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asking.ask(Put(b"a", b"1"), Put(b"b", b"2", ttl_ms=1))

        def fail(*_: object) -> None:
            raise LogFull("there is no space")

        with monkeypatch.context() as patch:
            patch.setattr(LogAppender, "append", fail)
            replies = asking.ask(Put(b"a", b"longer", ttl_ms=9), Delete(b"x"), Put(b"", b""), Delete(b"b"))
            assert replies == [Failed("insufficient_storage", "there is no space")] * 4
            check(server)
        assert value(server, b"a") == b"1"
        turn_until(server, lambda: len(server.writer.keyspace) == 1, "expired after all")
        assert asking.do(Put(b"a", b"3", want_previous=True)) == Replaced(4, True, b"1", 0, "", 1)
        assert [change for _, change in changes(store)][2:] == [
            DeleteEvent(b"b", "expire"),
            PutEvent(b"a", b"3", "", 0),
        ]

    def test_a_full_log_is_for_deletes(self, asking: Client, store: Store) -> None:
        asking.ask(Put(b"a", b"1"), Put(b"b", b"2"))
        store.board.log.full = 1
        replies = asking.ask(Put(b"a", b""), Touch(b"a"), Delete(b"a"))
        assert [type(reply) for reply in replies] == [Failed, Failed, Done]
        assert asking.do(DeletePrefix(b"", b"", 1 << 52, 9)) == Deleted([b"b"], None)
        store.board.log.full = 0
        assert isinstance(asking.do(Put(b"a", b"")), Done)

    def test_a_log_without_a_next_segment(self, asking: Client, store: Store) -> None:
        """Even a delete finds no place: 507, until there is room again."""
        asking.do(Put(b"k", b"v"))
        store.board.log.ready, store.board.log.full = store.board.history()[0], 1
        assert asking.do(Delete(b"x")) == Done(0, False)
        reply = asking.do(Delete(b"k"))
        assert isinstance(reply, Failed) and reply.code == "insufficient_storage"
        store.board.log.ready, store.board.log.full = store.segment, 0
        assert asking.do(Delete(b"k")) == Done(2, True)

    def test_a_full_map_refuses_growth(
        self, asking: Client, server: ShardServer, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asking.ask(Put(b"a", b"123"), Put(b"b", b"123"))
        monkeypatch.setattr(MapStorage, "free_bytes", lambda _: 0)
        server.writer.maintain_map(store.board.watermark())
        replies = asking.ask(Put(b"c", b""), Put(b"a", b"1234"), Put(b"a", b"321"), Delete(b"b"))
        assert [type(reply) for reply in replies] == [Failed, Failed, Done, Done]
        server.writer.publish_figures()
        assert store.board.shards[0].read_figures()["map_full"] == 1
        monkeypatch.undo()
        until(lambda: isinstance(asking.do(Put(b"c", b"")), Done), "room was noticed")

    def test_an_idle_shard_survives_a_full_map(
        self, asking: Client, server: ShardServer, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object) -> None:
            raise MapFull("no room")

        with monkeypatch.context() as patch:
            patch.setattr(MapOwner, "advance", fail)
            server.writer.maintain_map(store.board.watermark())
        assert isinstance(asking.do(Put(b"k", b"v")), Done)

    def test_what_cannot_be_applied_ends_the_process_and_is_not_lost(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object) -> None:
            raise MapFull("no room")

        with serving(store) as server, client(store) as asking, monkeypatch.context() as patch:
            patch.setattr(MapOwner, "apply_changes", fail)
            asking.send(Put(b"k", b"v"))
            server.sockets.wait(20.0)
            assert server.run() == 1
            assert store.board.shards[0].open != NONE
            assert not asking.dealer.poll(50)
        with serving(store) as again:
            assert value(again, b"k") == b"v"
            assert store.board.shards[0].open == NONE
