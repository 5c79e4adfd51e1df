"""The sockets of a shard: messages of peers that behave, and of those that do not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from shards.host.board import Board
from shards.host.process import policy_of_helpers
from shards.server.loop import ShardServer
from shards.server.sockets import Sockets, StartError
from shards.wire.protocol import (
    Delete,
    Done,
    Put,
    Replaced,
    decode_part,
    decode_reply,
)
from tests.api.shards.server.tools import Client, arrive, client, logged, serving, turn_until, until
from tests.stores import Store


@pytest.fixture
def sockets(place: Path) -> Iterator[Sockets]:
    made = Sockets(place, 3)
    yield made
    made.close()


@pytest.fixture
def dealer(place: Path, sockets: Sockets) -> Iterator[zmq.Socket[bytes]]:
    """A client's end."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as made:
        made.setsockopt(zmq.LINGER, 0)
        made.connect(f"ipc://{place}/shard-3-{sockets.incarnation:x}.req")
        yield made


def received(sockets: Sockets) -> tuple[bytes, bytes]:
    """The next message."""
    while (message := sockets.receive()) is None:
        assert sockets.wait(20.0), "a message"
    return message


class TestSockets:
    def test_messages_come_with_their_sender_who_is_answered(self, sockets: Sockets, dealer: zmq.Socket[bytes]) -> None:
        dealer.send(b"request")
        identity, frame = received(sockets)
        assert frame == b"request"
        sockets.reply(identity, 7, [Done(1, True)])
        sockets.reply_part(identity, 8, [2], [Done(3, True)])
        assert decode_reply(dealer.recv()) == (7, [Done(1, True)])
        assert decode_part(dealer.recv()) == (8, [2], [Done(3, True)])
        assert sockets.receive() is None
        assert sockets.dropped == 0

    def test_a_message_of_several_frames_is_received_as_an_empty_one(
        self, sockets: Sockets, dealer: zmq.Socket[bytes]
    ) -> None:
        dealer.send_multipart([b"one", b"two", b"three"])
        dealer.send(b"next")
        assert [received(sockets)[1] for _ in range(2)] == [b"", b"next"]

    def test_replies_to_nobody_are_dropped(self, sockets: Sockets) -> None:
        sockets.reply(b"nobody", 7, [Done(1, True)])
        assert sockets.dropped == 1

    def test_what_is_published_while_nobody_listens_is_lost(self, sockets: Sockets) -> None:
        sockets.publish(b"record")

    def test_a_readable_file_ends_a_wait(self, sockets: Sockets) -> None:
        reads, writes = os.pipe()
        sockets.wake_by(reads)
        os.write(writes, b"x")
        sockets.wait(60.0)
        assert sockets.receive() is None, "what ended the wait was no message"
        os.close(reads)
        os.close(writes)

    def test_no_wait_misses_what_came_while_a_reply_was_sent(self, sockets: Sockets, dealer: zmq.Socket[bytes]) -> None:
        for number in range(2000):
            dealer.send(b"%d" % number)
            identity, frame = received(sockets)
            dealer.send(b"next")
            sockets.reply(identity, number, [Done(1, True)])
            assert (frame, received(sockets)[1]) == (b"%d" % number, b"next")
            assert sockets.receive() is None

    def test_zeromqs_threads_run_by_the_policy_of_helpers(self, place: Path) -> None:
        tasks = Path("/proc/self/task")
        before = set(tasks.iterdir())
        sockets = Sockets(place, 4)
        threads = set(tasks.iterdir()) - before
        wanted = {policy_of_helpers()}
        until(lambda: {os.sched_getscheduler(int(thread.name)) for thread in threads} == wanted, "their policy")
        sockets.close()

    def test_the_paths_of_dead_predecessors_are_removed_and_its_own_at_the_end(self, place: Path) -> None:
        for name in ("shard-3-12ab.req", "shard-3.pub", "shard-30-12ab.req"):
            (place / name).touch()
        sockets = Sockets(place, 3)
        assert {path.name for path in place.iterdir()} == {
            "shard-3.pub",
            f"shard-3-{sockets.incarnation:x}.req",
            "shard-30-12ab.req",
        }
        sockets.close()
        assert [path.name for path in place.iterdir()] == ["shard-30-12ab.req"]


class TestStart:
    def test_sockets_that_cannot_be_bound(self, store: Store, place: Path) -> None:
        deep = place / ("d" * 100)
        deep.mkdir()
        board = Board.open(store.board.path)
        with pytest.raises(StartError, match="cannot be bound"):
            ShardServer(board, 0, deep)
        board.close()
        with serving(store) as again:
            assert len(again.writer.keyspace) == 0, "map, log and lock were closed"


class TestPeers:
    def test_one_that_is_gone_holds_nobody_up(
        self, asking: Client, server: ShardServer, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with client(store) as leaving:
            arrive(server, leaving, [[Put(b"k", b"1")]], monkeypatch)
        turn_until(server, lambda: logged(store), "executed")
        assert asking.do(Put(b"k", b"2", want_previous=True)) == Replaced(2, True, b"1", 0, "", 1)

    def test_one_that_does_not_read_holds_nobody_up(self, asking: Client, server: ShardServer) -> None:
        with client(asking.store, turn=asking.turn) as silent:
            for _ in range(20_000):
                silent.send(Delete(b"x"))
                server.run_turn(0)
                if server.sockets.dropped:
                    break
            assert server.sockets.dropped > 0
            assert asking.do(Delete(b"x")) == Done(0, False)
