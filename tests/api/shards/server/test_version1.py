"""What version 1 asks of a shard, over real sockets, log and map, in processes that are killed, and after restarts."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvserver.gateway.wal.formats import change_line
from shards.log.appender import LogAppender
from shards.log.files import LogFull
from shards.maps.build import open_map
from shards.maps.storage import MapStorage
from shards.server.loop import ShardServer, is_too_large
from shards.wire.protocol import (
    MESSAGE_OPS,
    MUST_NOT_EXIST,
    RECORD_BYTES,
    Atomic,
    AtomicBatch,
    Condition,
    Delete,
    Done,
    Failed,
    Get,
    Incr,
    OfOneKey,
    Operation,
    Patch,
    Put,
    Replaced,
    Results,
    Touch,
    Value,
    decode_events,
)
from tests.api.maps import entries_of
from tests.api.shards.server import tools
from tests.api.shards.server.test_process import KILLED, STEPS
from tests.api.shards.server.tools import Client, arrive, changes, check, client, logged, shard, turn_until, value
from tests.stores import Store


def code(reply: object) -> str:
    assert isinstance(reply, Failed)
    return reply.code


class TestOneKey:
    def test_every_operation(self, asking: Client, server: ShardServer) -> None:
        assert asking.ask(
            Incr(b"n", 5),
            Incr(b"n", -6),
            Patch(b"j", b'{"a":1.50}'),
            Patch(b"j", b'{"b":null,"c":2}', Condition([3])),
            Patch(b"j", b'{"b":null,"c":2}', Condition("*")),
            Get(b"j", 1),
            Put(b"n", b"x", "a/b", want_previous=True, condition=Condition("*")),
            Delete(b"n", condition=MUST_NOT_EXIST),
            Get(b"x", 1),
        ) == [
            Value(1, False, b"5", "text/plain", 0),
            Value(2, True, b"-1", "text/plain", 0),
            Value(3, False, b'{"a":1.50}', "application/json", 0),
            Failed("precondition_failed", "the key has another revision", 3),
            Value(4, True, b'{"a":1.50,"c":2}', "application/json", 0),
            Value(4, True, b'{"a":1.50,"c":2}', "application/json", 0),
            Replaced(5, True, b"-1", 0, "text/plain", 2),
            Failed("precondition_failed", "the key has a revision that the condition excludes", 5),
            Value(0, False),
        ]
        assert value(server, b"j") == b'{"a":1.50,"c":2}'

    def test_values_of_earlier_groups(self, asking: Client, server: ShardServer) -> None:
        at_ms = server.board.now_ms() + 60_000
        asking.ask(Put(b"n", b"1", "x/y", expires_ms=at_ms), Put(b"j", b"[]", "x/y"), Put(b"t", b"text"))
        assert asking.do(Incr(b"n", 1)) == Value(4, True, b"2", "x/y", at_ms)
        assert asking.do(Patch(b"j", b'{"a":1}', Condition([2]))) == Value(5, True, b'{"a":1}', "x/y", 0)
        assert code(asking.do(Patch(b"t", b"{}"))) == "not_json"
        assert code(asking.do(Incr(b"t", 1))) == "not_an_integer"
        assert asking.do(Get(b"n", 1)) == Value(4, True, b"2", "x/y", at_ms)
        assert asking.do(Delete(b"t", want_previous=True, condition=Condition([3]))) == Replaced(
            6, True, b"text", 0, "", 3
        )

    def test_an_expired_number_begins_again(self, asking: Client, server: ShardServer) -> None:
        asking.do(Incr(b"n", 5, ttl_ms=1))
        turn_until(server, lambda: not len(server.writer.keyspace), "expired")
        assert asking.do(Incr(b"n", 5)) == Value(3, False, b"5", "text/plain", 0)

    def test_what_is_logged_are_puts_and_so_is_what_the_feed_shows(self, asking: Client, store: Store) -> None:
        asking.ask(Incr(b"n", 5), Patch(b"j", b'{"a":1}'), Get(b"n", 1), Incr(b"j", 1))
        asking.do(AtomicBatch([Put(b"t", b"1"), Incr(b"t", 1), Touch(b"t", ttl_ms=60_000), Delete(b"t")]))
        assert [change_line(change) for _, change in changes(store)] == [
            b"Insert { key: n, value: 5 }",
            b'Insert { key: j, value: {"a":1} }',
            b"Insert { key: t, value: 1 }",
            b"Insert { key: t, value: 2 }",
            None,
            b"Delete { key: t }",
        ]

    def test_conditions_of_clients_that_race(
        self, asking: Client, server: ShardServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Of ten that saw the same revision, in one group, one wins."""
        asking.do(Put(b"k", b"0"))
        arrive(server, asking, [[Put(b"k", b"%d" % i, condition=Condition([1]))] for i in range(10)], monkeypatch)
        replies = [asking.receive()[1][0] for _ in range(10)]
        assert replies[0] == Done(2, True)
        assert {(code(reply), reply.revision) for reply in replies[1:] if isinstance(reply, Failed)} == {
            ("precondition_failed", 2)
        }
        assert value(server, b"k") == b"0"

    def test_failed_append_undoes_increments(
        self, asking: Client, server: ShardServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object) -> None:
            raise LogFull("there is no space")

        asking.do(Put(b"n", b"1"))
        with monkeypatch.context() as patch:
            patch.setattr(LogAppender, "append", fail)
            replies = asking.ask(Incr(b"n", 1), Get(b"n", 1), AtomicBatch([Incr(b"n", 1)]))
            assert [code(reply) for reply in replies] == ["insufficient_storage"] * 3
            check(server)
        assert asking.do(Incr(b"n", 1)) == Value(2, True, b"2", "", 0)


class TestSizes:
    def test_results_close_groups(self, asking: Client, server: ShardServer, store: Store) -> None:
        """Small patches of a large value: each logs all of it, and a record has to fit into a segment."""
        asking.do(Put(b"j", b'{"text":"%b"}' % (b"x" * 1_000_000)))
        replies = asking.ask(*[Patch(b"j", b'{"n":%d}' % number) for number in range(20)], Put(b"k", b"v"))
        assert [reply.revision for reply in replies if isinstance(reply, Value)] == list(range(2, 22))
        assert replies[-1] == Done(22, False)
        events = [record.events for record in logged(store)][1:]
        assert max(events) == 3, "what is read counts as what is written"
        assert sum(events) == 21
        check(server)
        item = server.map.get(b"j", 0)
        assert item is not None and item.value.endswith(b'"n":19}')

    def test_values_of_a_batch(self, asking: Client, server: ShardServer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("shards.keys.replies.ANSWER_BYTES", 10)
        asking.do(Put(b"k", b"123456"))
        replies = asking.ask(Get(b"k", 1), Get(b"k", 1), Get(b"k", 2))
        assert [isinstance(reply, Value) for reply in replies] == [True, False, True]
        assert code(replies[1]) == "answer_too_large"

    def test_an_atomic_batch_that_no_record_takes(self, asking: Client, server: ShardServer, store: Store) -> None:
        big = bytes(5_000_000)
        count = RECORD_BYTES // 5_000_000
        asking.do(Put(b"t", b"v"))
        reply = asking.do(AtomicBatch([Put(b"t", big) for _ in range(count + 1)]))
        assert code(reply) == "batch_too_large"
        assert store.board.last_revision() == 1
        reply = asking.do(AtomicBatch([Put(b"{t}%d" % number, big) for number in range(count)]))
        assert isinstance(reply, Results) and reply.failed is None
        assert [record.events for record in logged(store)] == [1, count]
        assert len(logged(store)[1].payload) < RECORD_BYTES
        check(server)

    @pytest.mark.parametrize(
        ("operations", "refused"),
        [
            ([AtomicBatch([Get(b"k", 1)] * (MESSAGE_OPS + 1))], False),
            ([AtomicBatch([Get(b"k", 1)] * MESSAGE_OPS), Get(b"k", 1)], True),
            ([AtomicBatch([Get(b"k", 1)] * (MESSAGE_OPS - 1)), Get(b"k", 1)], False),
        ],
    )
    def test_operations_of_a_batch_count_singly(self, operations: list[Operation], refused: bool) -> None:
        assert is_too_large(operations, 10_000) == refused

    def test_a_full_map_refuses_results(
        self, asking: Client, server: ShardServer, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asking.ask(Put(b"n", b"99"), Put(b"j", b'{"a":1}'))
        monkeypatch.setattr(MapStorage, "free_bytes", lambda _: 0)
        server.writer.maintain_map(store.board.watermark())
        replies = asking.ask(Incr(b"n", 1), Patch(b"j", b'{"b":1}'), Incr(b"n", -1), Patch(b"j", b'{"a":2}'))
        assert [type(reply) for reply in replies] == [Failed, Failed, Value, Value]


BATCH: list[OfOneKey] = [
    Put(b"{t}a", b"2"),
    Incr(b"{t}n", 1),
    Delete(b"{t}b"),
    Patch(b"{t}j", b'{"x":2}'),
    Touch(b"{t}c", expires_ms=1 << 50),
    Put(b"{t}new", b"2"),
]


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_a_batch_is_done_or_not_wherever_its_shard_is_killed(store: Store, step: tuple[str, str, str]) -> None:
    with shard(store) as process:
        with client(store) as asking:
            asking.ask(*[Put(b"{t}" + name, b"1") for name in (b"a", b"n", b"b", b"c")], Patch(b"{t}j", b'{"x":1}'))
        process.stop()
    before = tools.mapped(store)
    with shard(store, script=KILLED.format(step=step)) as process, client(store) as asking:
        asking.send(AtomicBatch(list(BATCH)))
        assert process.end()[0] == -9
    done = step[2] != "before"
    assert store.board.last_revision() == (11 if done else 5)
    with shard(store):
        tools.check_agreement(store)
        after = tools.mapped(store)
        if not done:
            assert after == before
        else:
            assert {key: (item[1], item[2]) for key, item in after.items()} == {
                b"{t}a": (0, b"2"),
                b"{t}n": (0, b"2"),
                b"{t}j": (0, b'{"x":2}'),
                b"{t}c": (1 << 50, b"1"),
                b"{t}new": (0, b"2"),
            }
            [batch] = decode_events(logged(store)[-1].payload)
            assert isinstance(batch, Atomic) and len(batch.changes) == 6
        with client(store) as asking:
            assert asking.do(Get(b"{t}n", 1)) == Value(*((7, True, b"2") if done else (2, True, b"1")))


def test_batches_under_load_are_whole_after_kills(store: Store) -> None:
    """Every batch writes its number to three keys: whatever is answered and whoever dies, they agree."""
    keys = [b"{t}1", b"{t}2", b"{t}3"]
    answered = 0
    for life in range(3):
        with shard(store) as process, client(store) as asking:
            sent = [
                asking.send(AtomicBatch([*(Put(key, b"%d-%d" % (life, number)) for key in keys), Incr(b"{t}n", 1)]))
                for number in range(150)
            ]
            for id in sent[: 20 * life + 1]:
                received, [reply] = asking.receive()
                assert received == id
                assert isinstance(reply, Results) and reply.failed is None
                last = reply.replies[-1]
                assert isinstance(last, Value)
                answered = int(last.value)
            process.kill()
    with shard(store) as process:
        tools.check_agreement(store)
        mapped = tools.mapped(store)
        status, said = process.stop()
    assert status == 0, said
    assert len({mapped[key][2] for key in keys}) == 1
    count = int(mapped[b"{t}n"][2])
    assert answered <= count
    events = [event for record in logged(store) for event in decode_events(record.payload)]
    assert all(isinstance(event, Atomic) and len(event.changes) == 4 for event in events)
    assert len(events) == count
    assert changes(store)[-1][0] == 4 * count


def test_maps_built_from_the_log_hold_the_same(store: Store, place: Path) -> None:
    """Increments, patches and batches replay as what they made, whatever the map was."""
    with shard(store) as process:
        with client(store) as asking:
            asking.ask(Incr(b"n", 1), *[Incr(b"n", number) for number in range(5)], Patch(b"j", b'{"a":1}'))
            asking.ask(AtomicBatch([Put(b"{t}a", b"1"), Incr(b"{t}n", 7), Delete(b"{t}a")]), Patch(b"j", b'{"b":1}'))
            asking.do(AtomicBatch([Put(b"{t}z", b"1"), Touch(b"{t}none")]))
        before = tools.mapped(store)
        process.stop()
    row = store.board.shards[0]
    row.map_generation, row.state, row.pid = 0, 0, 0
    for path in store.map_dir.glob("shard-0.*/*"):
        path.unlink()
    built = open_map(store.board, 0)
    assert {key: built.get(key, 0).value for key in before} == {key: item[2] for key, item in before.items()}  # type: ignore[union-attr]
    assert {key: (entry[0], entry[2]) for key, entry in entries_of(built).items()} == {
        key: item[:2] for key, item in before.items()
    }
    assert built.get(b"n", 0).value == b"11"  # type: ignore[union-attr]
    built.close()
