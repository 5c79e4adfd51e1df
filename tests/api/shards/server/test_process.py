"""`python -m shards`: a real process with a real log and a real map, asked, killed, started again and stopped."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from pathlib import Path

import pytest

from shards.host.board import NONE, Board
from shards.log.manifest import Manifest
from shards.log.records import encode
from shards.maps.layout import map_generations, map_path
from shards.wire.keys import MAX_TTL_MS, shard_of
from shards.wire.protocol import (
    AtomicBatch,
    Condition,
    Delete,
    DeleteEvent,
    Done,
    Failed,
    Get,
    Incr,
    Once,
    Put,
    PutEvent,
    Replaced,
    Replayed,
    Results,
    Touch,
    Value,
)
from tests.api.shards.server import tools
from tests.api.shards.server.tools import client, shard
from tests.stores import Store, new_store


def test_answers_logs_maps_and_stops(store: Store) -> None:
    with shard(store) as process:
        with client(store) as asking:
            assert asking.ask(Put(b"k", b"1"), Put(b"k", b"2", want_previous=True), Delete(b"x")) == [
                Done(1, False),
                Replaced(2, True, b"1", 0, "", 1),
                Done(0, False),
            ]
            assert tools.mapped(store) == {b"k": (2, 0, b"2")}
            assert asking.do(Delete(b"k", want_previous=True)) == Replaced(3, True, b"2", 0, "", 2)
        tools.check_agreement(store)
        status, said = process.stop()
    assert status == 0, said
    assert not said, "it is quiet when all is well"
    assert process.row.incarnation == 0
    assert not list(store.run_dir.glob("shard-0*"))


STEPS = {
    "before the append": ("shards.log.appender", "LogAppender.append", "before"),
    "between append and flush": ("shards.log.appender", "LogAppender.append", "after"),
    "between flush and apply": ("shards.log.appender", "LogAppender.flush", "after"),
    "after the apply, with open set": ("shards.maps.owner", "MapOwner.apply_changes", "after"),
    "after open was cleared": ("shards.host.board", "ShardRow.clear_open", "after"),
    "after the reply": ("shards.server.sockets", "Sockets.reply", "after"),
}
"""Where a shard is killed: module, function, before or after it."""

KILLED = """
import os, signal, importlib
import shards.server.loop
module, path, when = {step!r}
holder, name = path.split(".")
holder = getattr(importlib.import_module(module), holder)
function = getattr(holder, name)
def die(*arguments):
    if not serving or serving[0].board.shards[0].state != 2:
        return function(*arguments)
    if when == "after":
        function(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)
serving = []
start = shards.server.loop.ShardServer.__init__
def begin(self, *arguments):
    start(self, *arguments)
    serving.append(self)
shards.server.loop.ShardServer.__init__ = begin
setattr(holder, name, die)
"""


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_killed_at_any_step(store: Store, step: tuple[str, str, str]) -> None:
    with shard(store) as process:
        with client(store) as asking:
            asking.ask(Put(b"a", b"1"), Put(b"b", b"1"), Put(b"c", b"1"))
        process.stop()
    with shard(store, script=KILLED.format(step=step)) as process, client(store) as asking:
        asking.send(Put(b"a", b"2"), Delete(b"b"), Touch(b"c", expires_ms=1 << 50))
        assert process.end()[0] == -9
        answered = asking.dealer.poll(0) > 0
    assert answered <= (step[1] == "Sockets.reply")
    before = store.board.last_revision()
    assert before == (3 if step[2] == "before" else 6)
    with shard(store) as process:
        tools.check_agreement(store)
        assert process.row.open == NONE
        with client(store) as asking:
            assert asking.do(Put(b"a", b"3", want_previous=True)) == Replaced(
                before + 1, True, b"1" if before == 3 else b"2", 0, "", 1 if before == 3 else 4
            )
        tools.check_agreement(store)


ONCE = [
    Once(Put(b"a", b"2", want_previous=True), b"a" * 18, b"f" * 16),
    Once(Delete(b"b"), b"b" * 18, b"f" * 16),
    Once(Touch(b"c", expires_ms=1 << 50), b"c" * 18, b"f" * 16),
    Once(Incr(b"n", 5), b"n" * 18, b"f" * 16),
    Once(AtomicBatch([Incr(b"n", 2), Get(b"n", 1), Delete(b"{n}absent")]), b"m" * 18, b"f" * 16),
]
DONE: list[Done | Replaced | Value | Results] = [
    Replaced(4, True, b"1", 0, "", 1),
    Done(5, True),
    Done(6, True, None, 1 << 50),
    Value(7, False, b"5", "text/plain"),
    Results([Value(8, True, b"7", "text/plain"), Value(8, True, b"7", "text/plain"), Done(0, False)]),
]


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_killed_at_any_step_a_repeat_is_done_once(store: Store, step: tuple[str, str, str]) -> None:
    with shard(store) as process:
        with client(store) as asking:
            asking.ask(Put(b"a", b"1"), Put(b"b", b"1"), Put(b"c", b"1"))
        process.stop()
    with shard(store, script=KILLED.format(step=step)) as process, client(store) as asking:
        asking.send(*ONCE)
        assert process.end()[0] == -9
    was_done = step[2] == "after"
    for repeated in range(2):
        with shard(store) as process:
            with client(store) as asking:
                expected = [Replayed(done) for done in DONE] if was_done or repeated else DONE
                assert asking.ask(*ONCE) == expected
                assert asking.ask(*ONCE) == [Replayed(done) for done in DONE]
            tools.check_agreement(store)
            if repeated:
                process.kill()
            else:
                process.stop()
    assert store.board.last_revision() == 8


def test_what_was_done_once_is_known_to_a_map_built_of_the_log(store: Store) -> None:
    with shard(store) as process, client(store) as asking:
        asking.ask(Put(b"a", b"1"), Put(b"b", b"1"), Put(b"c", b"1"))
        assert asking.ask(*ONCE) == DONE
        process.kill()
    store.board.shards[0].map_generation = 0
    map_dir = Path(store.board.facts.map_dir)
    for index, generation in map_generations(map_dir):
        shutil.rmtree(map_path(map_dir, index, generation))
    with shard(store) as process, client(store) as asking:
        assert asking.ask(*ONCE) == [Replayed(done) for done in DONE]


def test_killed_under_load_loses_nothing_that_was_answered(store: Store) -> None:
    answered: dict[bytes, int] = {}
    unanswered: set[bytes] = set()
    for life in range(3):
        with shard(store) as process, client(store) as asking:
            sent: dict[int, list[bytes]] = {}
            for message in range(200):
                keys = [b"%d-%d-%d" % (life, message, i) for i in range(5)]
                sent[asking.send(*[Put(key, key) for key in keys])] = keys
            for _ in range(30 * life + 1):
                id, replies = asking.receive()
                for key, reply in zip(sent.pop(id), replies, strict=True):
                    assert isinstance(reply, Done)
                    answered[key] = reply.revision
            process.kill()
            unanswered.update(key for keys in sent.values() for key in keys)
    with shard(store) as process:
        tools.check_agreement(store)
        status, said = process.stop()
    assert status == 0, said
    state = tools.folded(store)
    assert all(state[key] == (revision, 0, key) for key, revision in answered.items())
    assert state.keys() <= answered.keys() | unanswered


def test_a_killed_shard_with_many_keys_serves_while_it_surveys_them(store: Store) -> None:
    keys = [b"%06d" % number for number in range(60_000)]
    with shard(store) as process:
        with client(store) as asking:
            for begin in range(0, len(keys), 1000):
                asking.ask(*(Put(key, b"v") for key in keys[begin : begin + 1000]))
            touched = asking.ask(*(Touch(key, 500) for key in keys[::100]))
        process.kill()
    assert all(isinstance(reply, Done) and reply.existed for reply in touched)
    with shard(store), client(store) as asking:
        there = Condition(if_none_match="*")
        replies = asking.ask(*(Put(key, b"other", condition=there) for key in keys[1:1000:100]), Incr(keys[-1], 1))
        assert [reply.code for reply in replies if isinstance(reply, Failed)] == ["precondition_failed"] * 10 + [
            "not_an_integer"
        ]
        new = asking.ask(*(Put(b"new %d" % number, b"", condition=there) for number in range(10)))
        assert not any(isinstance(reply, Failed) for reply in new)
        tools.until(lambda: len(tools.mapped(store)) == len(keys) - len(touched) + len(new), "all have expired")
        tools.check_agreement(store)


def test_expiries_survive_a_kill(store: Store) -> None:
    with shard(store) as process, client(store) as asking:
        asking.ask(Put(b"soon", b"v", ttl_ms=1), Put(b"late", b"v", ttl_ms=MAX_TTL_MS), Put(b"never", b"v"))
        process.kill()
    with shard(store):
        tools.until(lambda: store.board.last_revision() == 4, "expired")
        tools.until(lambda: store.board.watermark()[1] == 4, "applied")
        assert tools.changes(store)[3:] == [(4, DeleteEvent(b"soon", "expire"))]
        tools.check_agreement(store)


def test_two_clients_and_their_order(store: Store) -> None:
    """Each client's writes take revisions in the order it sent them, and all are told apart."""
    with shard(store), client(store) as one, client(store) as two:
        clients = {b"one": one, b"two": two}
        for number in range(100):
            for name, asking in clients.items():
                asking.send(Put(name, b"%d" % number, want_previous=True), Put(b"both", name + b"%d" % number))
        revisions: list[int] = []
        for asking in clients.values():
            mine: list[int] = []
            for number in range(100):
                id, [first, second] = asking.receive()
                assert isinstance(first, Done) and isinstance(second, Done)
                assert id == number + 1
                assert first.previous == (b"%d" % (number - 1) if number else None)
                mine += [first.revision, second.revision]
            assert mine == sorted(mine)
            revisions += mine
        assert sorted(revisions) == list(range(1, 401))
        tools.check_agreement(store)
        last = {change.key: change.value for _, change in tools.changes(store) if isinstance(change, PutEvent)}
        assert last == {key: value for key, (_, _, value) in tools.mapped(store).items()}


def test_publishes_what_the_log_holds(store: Store) -> None:
    with shard(store), client(store) as asking:
        asking.hear()
        heard = store.board.last_revision()
        for number in range(20):
            asking.do(Put(b"k%d" % number, b"v"))
        frames = [asking.published() for _ in range(20)]
    records = [record for record in tools.logged(store) if record.revision > heard]
    assert [encode(record, store.board.facts.secret) for record in records] == frames


@pytest.mark.parametrize("sync", ["everysec", "os"])
def test_other_ways_to_flush(place: Path, sync: str) -> None:
    store = new_store(place, shards=1, sync=sync)
    Manifest.create(store.data_dir).save(store.data_dir)
    with shard(store) as process:
        with client(store) as asking:
            asking.do(Put(b"k", b"v"))
        tools.check_agreement(store)
        if sync == "everysec":
            tools.until(lambda: store.board.log.synced == store.board.history()[0], "flushed")
        status, said = process.stop()
    assert status == 0, said
    store.close()


def test_many_shards(place: Path) -> None:
    store = new_store(place, shards=3)
    Manifest.create(store.data_dir).save(store.data_dir)
    with ExitStack() as stack:
        processes = [stack.enter_context(shard(store, index, up=False)) for index in range(3)]
        for process in processes:
            process.wait_up()
        clients = [stack.enter_context(client(store, index)) for index in range(3)]
        keys = [b"key-%d" % number for number in range(300)]
        for key in keys:
            clients[shard_of(key, 3)].send(Put(key, key))
        for key in keys:
            _, [reply] = clients[shard_of(key, 3)].receive()
            assert isinstance(reply, Done)
        assert tools.mapped(store).keys() == set(keys)
        tools.check_agreement(store)
        processes[1].kill()
        one = next(key for key in keys if shard_of(key, 3) == 2)
        assert isinstance(clients[2].do(Put(one, b"without the other shard")), Done)
    store.close()


class TestStopping:
    def test_everything_sent_is_answered(self, store: Store) -> None:
        with shard(store) as process, client(store) as asking:
            sent = [asking.send(Put(b"%d" % number, b"v")) for number in range(300)]
            asking.receive()
            status, said = process.stop()
            answers = dict(asking.receive() for _ in sent[1:])
        assert status == 0, said
        codes = {reply.code for [reply] in answers.values() if isinstance(reply, Failed)}
        assert codes <= {"unavailable"}
        done = {reply.revision for [reply] in answers.values() if isinstance(reply, Done)}
        assert {1, *done} == {revision for revision, _ in tools.changes(store)}

    def test_another_run_of_the_store(self, store: Store) -> None:
        with shard(store) as process:
            Board.create(store.board.path, store.board.facts).install()
            status, said = process.end()
        assert status == 1
        assert "its run of the server has ended" in said


class TestStarting:
    def test_no_board(self, store: Store) -> None:
        with shard(store, 0, "--run-dir", "/nonexistent", up=False) as process:
            status, said = process.end()
        assert status == 1
        assert "no board at /nonexistent/board" in said

    def test_no_such_shard(self, store: Store) -> None:
        with shard(store, 5, up=False) as process:
            status, said = process.end()
        assert status == 1
        assert "there is no shard 5" in said

    def test_a_setting_that_cannot_be(self, store: Store) -> None:
        with shard(store, 0, "--log-level", "loud", up=False) as process:
            status, said = process.end()
        assert status == 2
        assert "--log-level is 'loud'" in said

    def test_removes_sockets_of_the_dead(self, store: Store) -> None:
        (store.run_dir / "shard-0-1234.req").touch()
        (store.run_dir / "shard-0.pub").touch()
        with shard(store) as process:
            assert [path.name for path in store.run_dir.glob("shard-0-*.req")] == [
                f"shard-0-{process.row.incarnation:x}.req"
            ]
