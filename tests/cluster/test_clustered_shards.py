"""Shards of three machines on one order, in this process: real sockets, logs and maps; the order is the test's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from typing import Any

import pytest

from shards.log.records import ORDER
from shards.order.history import EVERY
from shards.server.clustered import ClusteredServer
from shards.server.following import DECIDE_S, Diverged
from shards.server.room import Room, WritePolicy
from shards.wire.errors import DeadlinePassed, Unavailable
from shards.wire.protocol import Delete, Done, Failed, Incr, Once, Put, Value
from tests.cluster.fake_order import HARSH
from tests.cluster.machines import FIRST, Machines, machines


def test_a_write_on_one_machine_is_on_all_with_one_revision() -> None:
    with machines() as cluster:
        assert cluster["a"].ask(Put(b"k", b"v")) == [Done(FIRST, False)]
        assert [machine.value(b"k") for machine in cluster.all] == [b"v"] * 3
        assert cluster["b"].ask(Incr(b"n", 1)) == [Value(FIRST + 1, False, b"1", "text/plain", 0)]
        assert cluster["c"].ask(Incr(b"n", 1), Delete(b"x"))[0] == Value(FIRST + 2, True, b"2", "text/plain", 0)
        cluster.until_equal()


def test_a_write_is_answered_and_shown_when_every_member_has_it() -> None:
    with machines() as cluster:
        a, c = cluster["a"], cluster["c"].running
        cluster["c"].server = None  # it does not turn: a process that is stopped
        id = a.client.send(Put(b"k", b"v"))
        cluster.until(lambda: a.value(b"k") == b"v", "it is decided")
        assert not a.client.dealer.poll(50)
        assert a.store.board.watermark()[1] == FIRST - 1 < a.store.board.last_revision()
        cluster["c"].server = c
        assert a.client.receive() == (id, [Done(FIRST, False)])
        assert a.store.board.watermark()[1] == FIRST


def test_local_reads_wait_for_no_other_machine() -> None:
    with machines(reads="local", start=False) as cluster:
        cluster["a"].start()
        cluster.until(lambda: cluster["a"].running.following.is_member, "it is in")
        assert cluster["a"].ask(Put(b"k", b"v")) == [Done(FIRST, False)]
        assert cluster["a"].store.board.watermark()[1] == FIRST


def test_a_silent_machine_is_put_out_and_comes_back() -> None:
    with machines() as cluster:
        a, c = cluster["a"], cluster["c"].running
        cluster["c"].server = None
        assert a.ask(Put(b"k", b"v")) == [Done(FIRST, False)]  # in the end
        assert sorted(a.running.following.state.members) == ["a", "b"]
        assert not cluster["c"].is_ready
        cluster["c"].server = c
        cluster.until_ready()
        assert cluster["c"].value(b"k") == b"v"
        cluster.until_equal()


def test_a_machine_that_was_killed_goes_on_from_its_own_log() -> None:
    with machines() as cluster:
        for number in range(20):
            cluster[NODES_IN_TURN[number % 3]].ask(Put(b"k%d" % number, b"v"), Incr(b"n", 1))
        cluster["b"].kill()
        for number in range(20, 30):
            cluster["a"].ask(Put(b"k%d" % number, b"v"), Incr(b"n", 1))
        cluster["b"].start()
        opened = cluster["b"].running.following.replica.resume_after
        assert opened > 20
        cluster.until_ready()
        assert cluster["b"].ask(Incr(b"n", 1))[0] == Value(FIRST + 60, True, b"31", "text/plain", 0)
        cluster.until_equal()


NODES_IN_TURN = "abc"


@pytest.mark.parametrize("step", ["append", "apply_changes", "show"])
def test_a_message_is_decided_once_wherever_its_machine_dies(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with machines() as cluster:
        cluster["a"].ask(Incr(b"n", 1))
        b = cluster["b"].running
        owner = {"append": b.log, "apply_changes": b.map, "show": b.board}[step]
        done = getattr(owner, step)

        def die(*arguments: object) -> object:
            result = done(*arguments)
            if step == "append":
                b.log.flush(b.board.history()[0])
            raise Death(result)

        monkeypatch.setattr(owner, step, die)
        id = cluster["a"].client.send(Incr(b"n", 1), Incr(b"n", 1))
        with pytest.raises(Death):
            cluster.until(lambda: False, "it dies")
        cluster["b"].kill()
        cluster["b"].start()
        answered, replies = cluster["a"].client.receive()
        assert (answered, replies[1]) == (id, Value(FIRST + 2, True, b"3", "text/plain", 0))
        cluster.until_ready()
        cluster.until_equal()


class Death(Exception):
    """A process dies here."""


def test_a_large_message_goes_on_behind_the_operations_that_are_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    with machines() as cluster:
        b = cluster["b"].running
        apply = b.map.apply_changes

        def die(*arguments: Any) -> None:
            apply(*arguments)
            raise Death

        monkeypatch.setattr(b.map, "apply_changes", die)
        id = cluster["a"].client.send(*[Put(b"k%d" % number, bytes(5 << 19)) for number in range(3)])
        with pytest.raises(Death):
            cluster.until(lambda: False, "it dies")
        place = b.map.place_in_order()
        assert place is not None and place.done == 2
        cluster["b"].kill()
        cluster["b"].start()
        answered, replies = cluster["a"].client.receive()
        assert answered == id and [r.revision for r in replies if isinstance(r, Done)] == [*range(FIRST, FIRST + 3)]
        cluster.until_equal()


def test_what_is_done_once_is_done_once_on_any_machine() -> None:
    with machines() as cluster:
        once = Once(Incr(b"n", 1), b"i" * 18, b"f" * 16)
        first = cluster["a"].ask(once)
        again = cluster["b"].ask(once)
        assert first == [Value(FIRST, False, b"1", "text/plain", 0)]
        assert getattr(again[0], "reply", None) == first[0]
        cluster.until_equal()


def test_a_key_expires_once_though_all_machines_see_it() -> None:
    with machines() as cluster:
        cluster["b"].ask(Put(b"k", b"v", ttl_ms=100), Put(b"other", b"v", ttl_ms=100))
        cluster.until(
            lambda: all(machine.running.map.find_entry(b"k") is None for machine in cluster.all), "it has expired"
        )
        assert cluster["a"].store.board.last_revision() == FIRST + 3
        cluster.until_equal()


def test_a_machine_whose_clock_is_ahead_does_not_propose_again_and_again_what_is_not_due() -> None:
    with machines(ahead_ms=3_600_000) as cluster:
        cluster["b"].ask(Put(b"kept", b"v", ttl_ms=1_000_000), Put(b"short", b"v", ttl_ms=100))
        cluster.until(lambda: cluster["b"].running.map.find_entry(b"short") is None, "it has expired")
        cluster.until_equal()
        before, until = len(cluster.stream.messages), time.monotonic() + 1.0
        cluster.until(lambda: time.monotonic() > until, "many looks for what is due")
        assert len(cluster.stream.messages) - before <= 2 * len(cluster.all)
        assert cluster["b"].running.map.find_entry(b"kept") is not None


def test_a_request_that_the_order_never_took_is_refused() -> None:
    with machines() as cluster:
        cluster.stream.by_itself = False
        a = cluster["a"]
        id = a.client.send(Put(b"k", b"v"), seconds=0.3)
        cluster.until(lambda: cluster.stream.held, "it is sent")
        for index in reversed(range(len(cluster.stream.held))):
            cluster.stream.refuse(index)
        answered = refusals(cluster, id)
        assert answered == [Unavailable.code]
        cluster.stream.by_itself = True
        cluster.until_equal()
        assert a.value(b"k") is None


def refusals(cluster: Machines, id: int) -> list[str]:
    """The codes of the refusal of message `id` of a; what is sent in the meantime is not taken either."""
    dealer = cluster["a"].client.dealer

    def is_answered() -> bool:
        for index in reversed(range(len(cluster.stream.held))):
            cluster.stream.refuse(index)
        return bool(dealer.poll(0))

    cluster.until(is_answered, "it is refused")
    answered, replies = cluster["a"].client.receive()
    assert answered == id
    return [reply.code for reply in replies if isinstance(reply, Failed)]


def test_a_request_that_waits_past_its_deadline_was_not_executed() -> None:
    with machines(start=False) as cluster:
        cluster.stream.stalled = True
        cluster["a"].start()
        id = cluster["a"].client.send(Put(b"k", b"v"), seconds=0.1)
        assert refusals(cluster, id) == [DeadlinePassed.code]


def test_a_request_does_not_wait_for_an_order_that_cannot_be_opened() -> None:
    with machines(start=False) as cluster:
        cluster.stream.closed_because = "the engine does not answer"
        a = cluster["a"]
        a.start()
        beats = a.store.board.shards[0].heartbeat_ns
        id = a.client.send(Put(b"k", b"v"), seconds=600)
        answered, replies = a.client.receive()
        assert answered == id
        assert [(reply.code, reply.detail) for reply in replies if isinstance(reply, Failed)] == [
            (Unavailable.code, "the order of the cluster cannot be followed yet: the engine does not answer")
        ]
        assert a.store.board.shards[0].heartbeat_ns > beats, "its heart has stopped"
        cluster.stream.closed_because = ""
        for node in "bc":
            cluster[node].start()
        cluster.until_ready()
        assert a.ask(Put(b"k", b"v")) == [Done(FIRST, False)]


def test_a_shard_stops_though_its_order_cannot_be_opened() -> None:
    with machines(start=False) as cluster:
        cluster.stream.closed_because = "the engine does not answer"
        cluster["a"].start()
        server = cluster["a"].running
        for _ in range(3):
            cluster.turn()
        server.stop()
        assert server.run() == 0
        server.board.close()
        cluster["a"].server = None


def fall_behind(cluster: Machines, messages: int) -> ClusteredServer:
    """Stop c, and let a write so many messages; return the shard of c, to be turned by the test."""
    server, cluster["c"].server = cluster["c"].running, None
    for number in range(messages):
        key = b"k%d" % number
        cluster["a"].client.send(Put(key, b"v"))
        cluster.until(lambda key=key: cluster["a"].value(key) == b"v", "a has decided it")  # type: ignore[misc]
    return server


def test_a_machine_answers_the_others_while_it_decides_a_backlog(monkeypatch: pytest.MonkeyPatch) -> None:
    with machines() as cluster:
        c = fall_behind(cluster, 4)
        decide, decided = c.following._decide, []

        def decide_slowly(*arguments: Any) -> None:
            decide(*arguments)
            decided.append(c.following.state.sequence)
            time.sleep(DECIDE_S)

        monkeypatch.setattr(c.following, "_decide", decide_slowly)
        for turn in range(1, 4):
            c.run_turn(0.0)
            assert len(decided) == turn, "one turn decides for a while only"
        monkeypatch.undo()
        cluster["c"].server = c
        cluster.until_equal()


def test_messages_of_one_turn_are_flushed_together(monkeypatch: pytest.MonkeyPatch) -> None:
    with machines() as cluster:
        c = fall_behind(cluster, 4)
        flush, flushed = c.log.flush, []

        def note(end: int) -> None:
            flushed.append(end)
            flush(end)

        monkeypatch.setattr(c.log, "flush", note)
        monkeypatch.setattr("shards.server.following.DECIDE_S", 60.0)
        c.run_turn(0.0)
        assert c.map.get(b"k3", c.board.now()) is not None
        assert flushed == [c.board.history()[0]]
        cluster["c"].server = c
        cluster.until_equal()


def test_what_grows_is_refused_where_there_is_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    with machines() as cluster:
        a, b = cluster["a"], cluster["b"]
        a.ask(Put(b"k", b"value"))
        for node in "bc":
            monkeypatch.setattr(cluster[node].running.writer, "measure_room", lambda size: Room(WritePolicy.NO_GROWTH))
        replies = b.ask(Put(b"new", b"v"), Put(b"k", b"small"), Put(b"k", b"much larger"), Delete(b"x"))
        codes = [reply.code if isinstance(reply, Failed) else type(reply) for reply in replies]
        assert codes == ["insufficient_storage", Done, "insufficient_storage", Done]
        cluster.until(a.running.following.others_lack_room, "a is told")  # it alone would have what it accepts
        assert [type(reply) for reply in a.ask(Put(b"new", b"v"), Delete(b"k"))] == [Failed, Done]
        cluster.until_equal()


def test_a_machine_that_stops_leaves_at_once() -> None:
    with machines() as cluster:
        begun = time.monotonic()
        b = cluster["b"].running
        b.following.leave()
        cluster.until(lambda: not b.following.is_member, "it is out")
        assert time.monotonic() - begun < 1.0
        assert not cluster["b"].is_ready
        assert cluster["a"].ask(Put(b"k", b"v")) == [Done(FIRST, False)]


def test_order_records_spare_a_restart_what_changed_nothing() -> None:
    with machines() as cluster:
        cluster["a"].ask(Put(b"k", b"v"))
        for _ in range(5):
            cluster["a"].ask(Delete(b"x"))
        cluster.until_equal()
        server = cluster["b"].running
        server.following.note_position()
        sequence = server.following.state.sequence
        reader = cluster["b"].store.reader()
        found, _ = reader.read(0, cluster["b"].store.board.history()[0])
        reader.close()
        assert [record.kind for record in found][-1] == ORDER
        cluster["b"].kill()
        cluster["b"].start()
        assert cluster["b"].running.following.replica.resume_after == sequence


def test_a_map_that_is_built_from_a_snapshot_goes_on_where_that_ends() -> None:
    with machines() as cluster:
        b = cluster["b"]
        for number in range(10):
            cluster["a"].ask(Put(b"k%d" % number, b"v"), Incr(b"n", 1))
        cluster.until_equal()
        where = {"KVSERVER_DATA_DIR": str(b.store.data_dir), "KVSERVER_RUN_DIR": str(b.store.run_dir)}
        subprocess.run([sys.executable, "-m", "shards.maps.snapshot"], env=os.environ | where, check=True, timeout=60)
        place = b.running.map.place_in_order()
        b.kill()
        b.store.board.shards[0].map_generation = 0  # as on a new board
        for path in b.store.map_dir.iterdir():
            shutil.rmtree(path, ignore_errors=True)
        b.start()
        assert b.running.map.place_in_order() == place
        assert cluster["a"].ask(Incr(b"n", 1)) == [Value(FIRST + 20, True, b"11", "text/plain", 0)]
        cluster.until_equal()


def test_a_machine_that_made_something_else_of_the_order_stops() -> None:
    with machines() as cluster:
        cluster["b"].running.following.replica.mix(b"a bit that flipped")
        with pytest.raises(Diverged, match="most other machines have made something else"):
            for _ in range(EVERY + 1):
                cluster["a"].ask(Put(b"k", b"v"))
            cluster.until(lambda: False, "it hears of it")
        cluster["b"].kill()


@pytest.mark.parametrize("seed", range(3))
def test_machines_agree_whatever_the_order_loses_doubles_and_delays(seed: int) -> None:
    with machines(HARSH, seed) as cluster:
        for number in range(30):
            machine = cluster.all[number % 3]
            assert len(machine.ask(Incr(b"n", 1), Put(b"k%d" % (number % 5), b"%d" % number))) == 2
            if number % 10 == 9:
                machine.kill()
                machine.start()
        cluster.until_ready()
        assert cluster["a"].value(b"n") == b"30"
        cluster.until_equal()
