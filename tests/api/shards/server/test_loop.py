"""The loop of a shard, turned by the test, over real sockets, log and map: groups, order, refusals, full disks."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shards.host.board import NONE, ShardRow
from shards.keys.keyspace import Keyspace
from shards.log.appender import LogAppender
from shards.log.manifest import Manifest
from shards.log.records import HEADER
from shards.server.loop import ShardServer
from shards.wire import protocol
from shards.wire.keys import MAX_TTL_MS, shard_of
from shards.wire.protocol import (
    MESSAGE_BYTES,
    MESSAGE_OPS,
    PUBLISH_BYTES,
    Delete,
    Deleted,
    DeleteEvent,
    DeletePrefix,
    Done,
    Failed,
    Get,
    Incr,
    MarkPrefix,
    Once,
    Operation,
    Patch,
    PrefixMarked,
    Put,
    PutEvent,
    Replaced,
    Touch,
    Value,
)
from tests.api.shards.server.tools import (
    Client,
    arrive,
    changes,
    check,
    client,
    logged,
    revision_of,
    serving,
    turn_until,
    until,
    value,
)
from tests.stores import Store, new_store


class TestAnswers:
    def test_every_operation_in_order(self, asking: Client, server: ShardServer) -> None:
        replies = asking.ask(
            Put(b"k", b"1"),
            Put(b"k", b"2", want_previous=True),
            Touch(b"k", expires_ms=1 << 50),
            Touch(b"x"),
            Delete(b"x"),
            Put(b"", b""),
            Delete(b"k", want_previous=True),
            Delete(b"k"),
        )
        assert replies == [
            Done(1, False),
            Replaced(2, True, b"1", 0, "", 1),
            Done(3, True, None, 1 << 50),
            Done(0, False),
            Done(0, False),
            Failed("bad_key", "the key is empty"),
            Replaced(4, True, b"2", 0, "", 3),
            Done(0, False),
        ]
        assert value(server, b"k") is None

    def test_what_can_be_no_key_is_refused(self, asking: Client, store: Store) -> None:
        for key in (b"", b"k" * 512, b"k" * 100_000):
            operations = [Put(key, b""), Delete(key), Touch(key), Patch(key, b"1"), Get(key, 1), Incr(key, 1)]
            replies = asking.ask(*operations, Once(Put(key, b"", want_previous=True), b"i" * 18, b"f" * 16))
            codes = {reply.code for reply in replies if isinstance(reply, Failed)}
            assert len(replies) == 7 and codes == {"key_too_long" if key else "bad_key"}
        assert logged(store) == []

    def test_what_changes_nothing_is_not_logged(self, asking: Client, store: Store) -> None:
        assert asking.ask(Delete(b"x"), Touch(b"x"), Put(b"k", b"v", "no type")) == [
            Done(0, False),
            Done(0, False),
            Failed("bad_request", "the content type is not a media type of RFC 9110 in at most 255 ASCII characters"),
        ]
        assert logged(store) == []

    def test_what_was_put_can_be_read(self, asking: Client, server: ShardServer) -> None:
        before = server.board.now()
        asking.do(Put(b"k", b"v", "text/plain", ttl_ms=MAX_TTL_MS))
        item = server.map.get(b"k", before)
        assert item is not None
        assert (item.revision, item.value_revision, item.content_type, item.value) == (1, 1, "text/plain", b"v")
        assert before.wall_ms <= item.modified_ms == item.created_ms <= server.board.now_ms()
        assert before.steady_ms <= -item.expires_ms - MAX_TTL_MS <= server.board.steady_ms()

    def test_messages_are_answered_one_by_one(self, asking: Client, store: Store) -> None:
        ids = [asking.send(Put(b"k%d" % i, b"v"), Delete(b"x")) for i in range(20)]
        received = [asking.receive() for _ in ids]
        assert received == [(id, [Done(n, False), Done(0, False)]) for n, id in enumerate(ids, 1)]
        assert [change.key for _, change in changes(store) if isinstance(change, PutEvent)] == [
            b"k%d" % i for i in range(20)
        ]


class TestRefusals:
    """Whatever is wrong with a message: it gets one reply that says so, and nothing of it is done."""

    @pytest.fixture(autouse=True)
    def nothing_done(self, asking: Client, store: Store) -> Iterator[None]:
        yield
        assert asking.do(Put(b"after", b"v")) == Done(1, False)
        assert [change for _, change in changes(store)] == [PutEvent(b"after", b"v", "", 0)]

    def refusal(self, asking: Client) -> tuple[int, str]:
        id, [reply] = asking.receive()
        assert isinstance(reply, Failed)
        return id, reply.code

    @pytest.mark.parametrize("frames", [[b""], [b"x" * 32 + b"\x90"], [b"\0" * 31], [b"", b"", b""]])
    def test_no_header(self, asking: Client, frames: list[bytes]) -> None:
        asking.send_frames(frames)
        assert self.refusal(asking) == (0, "protocol_error")

    @pytest.mark.parametrize(
        "body", [b"", b"\xc1", b"\x90", b"\x91\x92\x63\xa1k", b"\x91\x94\x01\xc4\x01k\xc4\x01v\xa1\xff"]
    )
    def test_body_that_cannot_be_read(self, asking: Client, body: bytes) -> None:
        header = protocol.encode_request(77, asking.incarnation, 1 << 62, [Delete(b"k")])[:32]
        asking.send_frames([header + body])
        assert self.refusal(asking) == (77, "protocol_error")

    def test_several_frames(self, asking: Client) -> None:
        frame = protocol.encode_request(77, asking.incarnation, 1 << 62, [Delete(b"k")])
        asking.send_frames([frame[:32], frame[32:]])
        assert self.refusal(asking) == (0, "protocol_error")
        assert asking.ask(Delete(b"k")) == [Done(0, False)]

    def test_another_incarnation(self, asking: Client) -> None:
        id = asking.send(Put(b"k", b"v"), Put(b"l", b"v"), incarnation=asking.incarnation + 1)
        assert self.refusal(asking) == (id, "stale_incarnation")

    def test_after_the_deadline(self, asking: Client) -> None:
        id = asking.send(Put(b"k", b"v"), seconds=-0.001)
        assert self.refusal(asking) == (id, "deadline_passed")

    def test_too_many_operations(self, asking: Client) -> None:
        id = asking.send(*[Put(b"k", b"v")] * (MESSAGE_OPS + 1))
        assert self.refusal(asking) == (id, "protocol_error")

    def test_too_many_bytes(self, asking: Client) -> None:
        id = asking.send(*[Put(b"k", bytes(MESSAGE_BYTES // 2))] * 2)
        assert self.refusal(asking) == (id, "protocol_error")

    def test_too_large_a_value(self, asking: Client, store: Store) -> None:
        id = asking.send(Put(b"k", bytes(store.board.facts.max_value + 1)))
        assert self.refusal(asking) == (id, "value_too_large")


def test_keys_of_another_shard_are_refused(place: Path) -> None:
    store = new_store(place, shards=2)
    Manifest.create(store.data_dir).save(store.data_dir)
    keys = [b"key-%d" % i for i in range(10)]
    with serving(store, 1) as server, client(store, 1, turn=lambda: server.run_turn(0.005)) as asking:
        replies = asking.ask(*[Put(key, b"v") for key in keys])
    mine = [isinstance(reply, Done) for reply in replies]
    assert mine == [shard_of(key, 2) == 1 for key in keys]
    assert {reply.code for reply in replies if isinstance(reply, Failed)} == {"protocol_error"}
    store.close()


class TestGroups:
    def test_what_waits_becomes_one_record(
        self, asking: Client, server: ShardServer, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        arrive(
            server,
            asking,
            [[Put(b"a%d" % i, b"v"), Put(b"b", b"v", want_previous=True)] for i in range(10)],
            monkeypatch,
        )
        assert [asking.receive()[1][1] for _ in range(10)] == [
            Replaced(2 * i + 2, True, b"v", 0, "", 2 * i) if i else Done(2, False) for i in range(10)
        ]
        assert [record.events for record in logged(store)] == [20]

    def test_a_group_closes_when_full_and_messages_stay_whole(
        self, asking: Client, server: ShardServer, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        arrive(server, asking, [[Put(b"k%d" % i, b"v") for i in range(600)] for _ in range(3)], monkeypatch)
        assert [len(asking.receive()[1]) for _ in range(3)] == [600] * 3
        assert [record.events for record in logged(store)] == [1200, 600]

    def test_a_group_closes_at_its_size(
        self, asking: Client, server: ShardServer, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        arrive(server, asking, [[Put(b"k%d" % i, bytes(5_000_000))] for i in range(3)], monkeypatch)
        for _ in range(3):
            asking.receive()
        assert [record.events for record in logged(store)] == [1, 1, 1]

    def test_published_after_applied_and_answered(
        self, asking: Client, server: ShardServer, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[tuple[str, bytes | None, int, bool]] = []

        def noting(what: str, function: Callable[..., None]) -> None:
            def noted(*arguments: object) -> None:
                synced = store.board.log.synced == store.board.history()[0]
                seen.append((what, value(server, b"k"), store.board.shards[0].open, synced))
                function(*arguments)

            monkeypatch.setattr(server.sockets, what, noted)

        noting("reply", server.sockets.reply)
        noting("publish", server.sockets.publish)
        asking.do(Put(b"k", b"v"))
        until(lambda: len(seen) == 2, "published")
        assert seen == [("reply", b"v", NONE, True), ("publish", b"v", NONE, True)]

    def test_large_records_are_announced(self, asking: Client, store: Store) -> None:
        asking.hear()
        asking.do(Put(b"k", bytes(PUBLISH_BYTES - HEADER - 50)))
        small = asking.published()
        asking.do(Put(b"k", bytes(PUBLISH_BYTES)))
        large = asking.published()
        records = logged(store)[-2:]
        assert [revision_of(small), revision_of(large)] == [record.revision for record in records]
        assert small[HEADER:] == records[0].payload
        assert len(large) == HEADER

    def test_big_values(self, asking: Client, server: ShardServer, store: Store) -> None:
        first, second = b"\1" * store.board.facts.max_value, b"\2" * store.board.facts.max_value
        assert asking.do(Put(b"k", first, want_previous=True)) == Done(1, False)
        assert asking.do(Put(b"k", second, want_previous=True)) == Replaced(2, True, first, 0, "", 1)
        assert value(server, b"k") == second
        assert asking.do(Delete(b"k", want_previous=True)) == Replaced(3, True, second, 0, "", 2)


class TestTurns:
    """However much one message asks for, others wait for a group of it and no more."""

    def test_a_small_message_does_not_wait_for_a_large_one(
        self, asking: Client, server: ShardServer, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asking.do(Put(b"document", b'{"text":"%b"}' % (b"x" * 2_000_000)))
        patches: list[Operation] = [Patch(b"document", b'{"n":%d}' % number) for number in range(6)]
        arrive(server, asking, [patches, [Put(b"stranger", b"v")], [Put(b"another", b"v")]], monkeypatch)
        assert [len(asking.receive()[1]) for _ in range(3)] == [1, 1, 6]
        assert [change.key for _, change in changes(store)[1:3]] == [b"stranger", b"another"]  # type: ignore[union-attr]
        assert [record.events for record in logged(store)] == [1, 2, 2, 2, 2]

    def test_large_messages_take_turns(
        self, asking: Client, server: ShardServer, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        large = [[Put(b"%s%d" % (name, number), bytes(2_000_000)) for number in range(4)] for name in (b"a", b"b")]
        arrive(server, asking, large, monkeypatch)
        assert [len(asking.receive()[1]) for _ in range(2)] == [4, 4]
        assert [change.key for _, change in changes(store)] == [  # type: ignore[union-attr]
            b"a0",
            b"a1",
            b"a2",
            b"b0",
            b"b1",
            b"b2",
            b"a3",
            b"b3",
        ]

    def test_old_values_count(
        self, asking: Client, server: ShardServer, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What looked small and is not goes to the large ones; who was behind it in the same message is done before."""
        for number in range(4):
            asking.do(Put(b"large%d" % number, bytes([number]) * 3_000_000))
        deletes: list[Operation] = [Delete(b"large%d" % number, want_previous=True) for number in range(4)]
        arrive(server, asking, [[*deletes, Put(b"large3", b"new"), Put(b"stranger", b"v")]], monkeypatch)
        _, replies = asking.receive()
        previous = [reply.previous for reply in replies if isinstance(reply, Replaced)]
        assert previous == [bytes([number]) * 3_000_000 for number in range(4)]
        keys = [getattr(change, "key", b"") for _, change in changes(store)[4:]]
        assert keys == [b"large0", b"large1", b"large2", b"large3", b"stranger", b"large3"]
        assert value(server, b"large3") == b"new"

    def test_what_has_not_begun_at_the_deadline_is_not_done(
        self, asking: Client, server: ShardServer, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asking.ask(*[Put(b"large%d" % number, bytes(3_000_000)) for number in range(2)])
        asking.send(*[Put(b"k%d" % number, bytes(2_500_000)) for number in range(3)], Patch(b"large0", b"{}"))
        end = store.board.last_revision()
        turn_until(server, lambda: store.board.last_revision() > end, "a first group")
        now_ns = time.monotonic_ns()
        monkeypatch.setattr("shards.server.loop.time.monotonic_ns", lambda: now_ns + 61_000_000_000)
        _, replies = asking.receive()
        assert [reply.code if isinstance(reply, Failed) else "" for reply in replies] == [
            "",
            "",
            "deadline_passed",
            "deadline_passed",
        ]
        assert value(server, b"k1") is not None and value(server, b"k2") is None

    def test_what_patches_write_is_bounded(
        self, asking: Client, server: ShardServer, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("shards.server.request_queue.PATCHED_BYTES", 5_000_000)
        asking.do(Put(b"d", b'{"text":"%b"}' % (b"x" * 1_500_000)))
        patches: list[Operation] = [Patch(b"d", b'{"n":%d}' % number) for number in range(8)]
        replies = asking.ask(*patches, Put(b"d", b"last"), Get(b"d", 1))
        assert [reply.code if isinstance(reply, Failed) else "" for reply in replies[:8]] == [
            "",
            "",
            "",
            "",
            *["patches_too_large"] * 4,
        ]
        assert isinstance(replies[9], Value) and replies[9].value == b"last"
        assert value(server, b"d") == b"last"

    def test_what_waits_when_the_shard_stops_is_refused(
        self, asking: Client, server: ShardServer, store: Store
    ) -> None:
        id = asking.send(*[Put(b"k%d" % number, bytes(2_500_000)) for number in range(3)])
        turn_until(server, lambda: store.board.last_revision() > 0, "a first group")
        server.stop()
        server._refuse_remaining()
        answered, replies = asking.receive()
        assert answered == id
        assert [type(reply) for reply in replies] == [Done, Done, Failed]


class TestPrefixDelete:
    def test_between_other_operations(self, asking: Client, server: ShardServer, store: Store) -> None:
        asking.ask(*[Put(key, b"v") for key in (b"a", b"a/1", b"a/2", b"a/3", b"b")])
        assert asking.do(MarkPrefix(b"a")) == Done(6, False)
        replies = asking.ask(
            Put(b"a/2", b"new"),
            DeletePrefix(b"a", b"", 6, 100),
            Put(b"a/1", b"new", want_previous=True),
        )
        assert replies == [Done(7, True), Deleted([b"a", b"a/1", b"a/3"], None), Done(11, False)]
        assert [change for _, change in changes(store)][5:] == [
            PrefixMarked(b"a"),
            PutEvent(b"a/2", b"new", "", 0),
            DeleteEvent(b"a", "prefix", 6),
            DeleteEvent(b"a/1", "prefix", 6),
            DeleteEvent(b"a/3", "prefix", 6),
            PutEvent(b"a/1", b"new", "", 0),
        ]
        assert value(server, b"b") == b"v"

    def test_in_steps(self, asking: Client) -> None:
        asking.ask(*[Put(b"k%02d" % i, b"v") for i in range(25)])
        found, after, steps = [], b"", 0
        while True:
            reply = asking.do(DeletePrefix(b"k", after, 1 << 52, 10))
            assert isinstance(reply, Deleted)
            found += reply.keys
            steps += 1
            if reply.next is None:
                break
            after = reply.next
        assert found == [b"k%02d" % i for i in range(25)]
        assert steps == 3

    def test_ends_its_turn(
        self, asking: Client, server: ShardServer, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Others need not wait until several are done."""
        asking.ask(Put(b"a", b"v"), Put(b"b", b"v"))
        arrive(
            server,
            asking,
            [[Put(b"c", b"v")], [DeletePrefix(b"a", b"", 9, 9)], [DeletePrefix(b"b", b"", 9, 9)], [Put(b"d", b"v")]],
            monkeypatch,
        )
        server.run_turn(0)
        assert store.board.last_revision() == 5, "the puts, which are small, and one of the deletes"
        assert [asking.receive()[1] for _ in range(4)] == [
            [Done(3, False)],
            [Done(4, False)],
            [Deleted([b"a"], None)],
            [Deleted([b"b"], None)],
        ]

    def test_steps_are_bounded_whatever_was_asked(self, asking: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("shards.server.writer.PREFIX_KEYS", 4)
        asking.ask(*[Put(b"k%d" % i, b"v") for i in range(6)])
        assert asking.do(DeletePrefix(b"", b"", 1 << 52, 1 << 60)) == Deleted([b"k0", b"k1", b"k2", b"k3"], b"k3")

    @pytest.mark.parametrize(
        ("operation", "code"),
        [
            (DeletePrefix(b"\xff", b"", 1, 1), "bad_key"),
            (DeletePrefix(b"p" * 512, b"", 1, 1), "key_too_long"),
            (DeletePrefix(b"", b"a" * 600, 1, 1), "key_too_long"),
            (DeletePrefix(b"", b"", 1, 0), "bad_request"),
        ],
    )
    def test_refusals(self, asking: Client, operation: DeletePrefix, code: str) -> None:
        reply = asking.do(operation)
        assert isinstance(reply, Failed)
        assert reply.code == code


class TestExpiry:
    def test_is_logged_applied_and_published(self, asking: Client, server: ShardServer, store: Store) -> None:
        asking.ask(*[Put(b"k%d" % i, b"v", ttl_ms=i) for i in range(1, 6)])
        turn_until(server, lambda: not len(server.writer.keyspace), "all expired")
        found = changes(store)
        assert [change for _, change in found[5:]] == [DeleteEvent(b"k%d" % i, "expire") for i in range(1, 6)]
        puts, expiries = logged(store)[0], logged(store)[1:]
        assert all(record.time_ms > puts.time_ms for record in expiries)
        assert value(server, b"k5") is None
        server.writer.publish_figures()
        assert store.board.shards[0].read_figures()["expired"] == 5

    def test_the_loop_wakes_for_it(self, asking: Client, server: ShardServer, monkeypatch: pytest.MonkeyPatch) -> None:
        asking.do(Put(b"k", b"v", ttl_ms=10_000))
        waits: list[float] = []
        with monkeypatch.context() as patch:
            patch.setattr(server.sockets, "wait", waits.append)
            server.run_turn(60.0)
        assert len(waits) == 1 and 0 < waits[0] <= 10
        asking.do(Put(b"k", b"v", ttl_ms=500))
        asking.do(Touch(b"k", ttl_ms=50_000))
        turn_until(server, lambda: server.writer.expiry_in_s(60.0) > 1, "looked at, and found live")
        assert value(server, b"k") == b"v"


class TestSurvey:
    def test_a_step_in_each_turn_until_all_expiries_are_known(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Keyspace.survey, "__defaults__", (2,))
        with serving(store) as server, client(store, turn=lambda: server.run_turn(0.005)) as asking:
            asking.ask(*[Put(b"k%d" % n, b"v", ttl_ms=MAX_TTL_MS) for n in range(5)], Put(b"soon", b"v", ttl_ms=1))
            asking.ask(Touch(b"k0"), Delete(b"k1"))
            server.writer.publish_figures()
        with serving(store) as server:
            keyspace, steps = server.writer.keyspace, 0
            assert store.board.shards[0].read_figures()["keys"] == len(keyspace)
            assert not gc.isenabled()
            while not keyspace.is_surveyed:
                check(server)
                server.run_turn(0.005)
                steps += 1
            assert gc.isenabled() and steps == len(keyspace) // 2 + 1
            turn_until(server, lambda: len(keyspace) == 4, "expired")

    def test_there_is_none_if_nothing_expires(self, store: Store) -> None:
        with serving(store) as server, client(store, turn=lambda: server.run_turn(0.005)) as asking:
            asking.ask(Put(b"k", b"v", ttl_ms=9), Touch(b"k"))
        with serving(store) as server:
            assert server.writer.keyspace.is_surveyed and gc.isenabled()


class TestBoard:
    def test_row_says_what_is_served(self, server: ShardServer, store: Store) -> None:
        row = store.board.shards[0]
        assert (row.state, row.incarnation) == (ShardRow.UP, server.sockets.incarnation)
        assert store.board.is_claimed(row)

    def test_heart_beats_while_idle(self, server: ShardServer, store: Store) -> None:
        row = store.board.shards[0]
        before = row.heartbeat_ns
        server.run_turn(0.001)
        assert row.heartbeat_ns > before

    def test_figures(self, asking: Client, server: ShardServer, store: Store) -> None:
        asking.ask(Put(b"a", b"12"), Put(b"b", b"34"), Touch(b"a"), Delete(b"b"), Delete(b"x"), Put(b"", b""))
        asking.ask(Put(b"p/1", b""), DeletePrefix(b"p/", b"", 1 << 52, 9))
        server.writer.maintain_map(store.board.watermark())
        server.writer.publish_figures()
        figures = store.board.shards[0].read_figures()
        expected = {
            "keys": 1,
            "bytes": 3,
            "puts": 3,
            "touches": 1,
            "deletes": 1,
            "prefix_deletes": 1,
            "expired": 0,
            "refused": 1,
            "groups": 3,
            "operations": 8,
            "map_full": 0,
            "pinned_pid": 0,
        }
        assert {name: figures[name] for name in expected} == expected
        assert all(figures[name] > 0 for name in ("append_ns", "flush_ns", "apply_ns", "map_bytes"))

    def test_the_queue_is_empty_when_idle(self, asking: Client, server: ShardServer, store: Store) -> None:
        row = store.board.shards[0]
        server.writer.write([[Put(b"a", b"1"), Put(b"b", b"1")], [Put(b"c", b"1")]])
        server.writer.write([[Put(b"a", b"2")]])
        server.writer.publish_figures()
        assert row.read_figures()["queue"] == 3, "the most since the last time"
        turn_until(server, lambda: row.read_figures()["queue"] == 0, "nothing waits any more")

    def test_the_map_follows_the_log_of_others(self, server: ShardServer, store: Store) -> None:
        other = LogAppender(store.board, None)
        other.append_stop(store.board.now())
        other.close()
        server.writer.maintain_map(store.board.watermark())
        assert server.map.applied == store.board.watermark()
