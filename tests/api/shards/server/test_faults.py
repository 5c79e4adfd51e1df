"""What a shard does when there is no room, when it must end, and when a peer does not behave."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from shards.host.board import NONE, Board
from shards.log.appender import LogAppender
from shards.log.files import LogBroken, LogFull
from shards.maps.layout import MapFull
from shards.maps.owner import MapOwner
from shards.maps.storage import MapStorage
from shards.server.loop import Server, StartError
from shards.wire.protocol import (
    Delete,
    Deleted,
    DeleteEvent,
    DeletePrefix,
    Done,
    Failed,
    Put,
    PutEvent,
    Replaced,
    Touch,
)
from tests.api.shards.server.tools import Client, changes, check, client, logged, serving, turn_until, until, value
from tests.stores import Store


class TestNoRoom:
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
        self, asking: Client, server: Server, monkeypatch: pytest.MonkeyPatch, number: int, code: str
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
        self, asking: Client, server: Server, store: Store, monkeypatch: pytest.MonkeyPatch
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
        self, asking: Client, server: Server, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asking.ask(Put(b"a", b"123"), Put(b"b", b"123"))
        monkeypatch.setattr(MapStorage, "free_bytes", lambda _: 0)
        server.writer.housekeep(store.board.watermark())
        replies = asking.ask(Put(b"c", b""), Put(b"a", b"1234"), Put(b"a", b"321"), Delete(b"b"))
        assert [type(reply) for reply in replies] == [Failed, Failed, Done, Done]
        server.writer.publish_figures()
        assert store.board.shards[0].read_figures()["map_full"] == 1
        monkeypatch.undo()
        until(lambda: isinstance(asking.do(Put(b"c", b"")), Done), "room was noticed")

    def test_an_idle_shard_survives_a_full_map(
        self, asking: Client, server: Server, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object) -> None:
            raise MapFull("no room")

        with monkeypatch.context() as patch:
            patch.setattr(MapOwner, "advance", fail)
            server.writer.housekeep(store.board.watermark())
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


class TestEnds:
    def test_a_stop_is_noticed_while_waiting_for_a_segment(self, asking: Client, server: Server, store: Store) -> None:
        """The one who makes segments may hang as well."""
        asking.do(Put(b"k", b"v"))
        store.board.log.ready = store.board.history()[0]
        asking.send(Put(b"k", b"w"), Delete(b"x"))
        server.sockets.wait(20.0)
        before = store.board.history()
        threading.Timer(0.05, server.stop).start()
        assert server.run() == 0
        _, replies = asking.receive()
        assert [isinstance(reply, Failed) and reply.code for reply in replies] == ["unavailable"] * 2
        assert store.board.history() == before

    def test_a_failed_flush_answers_nothing(
        self, asking: Client, server: Server, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object) -> None:
            raise LogBroken("the disk is gone")

        monkeypatch.setattr(LogAppender, "flush", fail)
        asking.send(Put(b"k", b"v"), Delete(b"x"))
        server.sockets.wait(20.0)
        assert server.run() == 1
        assert not asking.dealer.poll(50)
        assert store.board.shards[0].incarnation == 0

    def test_a_broken_log_ends_an_idle_shard(self, server: Server, store: Store) -> None:
        store.board.log.broken = 1
        assert server.run() == 1

    def test_another_board_ends_it(self, server: Server, store: Store) -> None:
        store.board.path.unlink()
        assert server.run() == 1

    def test_stopping_refuses_what_waits(self, asking: Client, server: Server, store: Store) -> None:
        ids = [asking.send(Put(b"k", b"v")) for _ in range(3)]
        server.sockets.wait(20.0)
        server.stop()
        assert server.run() == 0
        refusals = [asking.receive() for _ in ids]
        assert refusals == [(id, [Failed("unavailable", "the shard is stopping")]) for id in ids]
        assert logged(store) == []

    def test_only_one_of_it(self, server: Server, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("shards.server.loop._LOCK_S", 0.0)
        with pytest.raises(StartError, match="shard 0 is running already"):
            Server(store.board, 0, store.run_dir).open()

    def test_a_row_that_another_has(self, store: Store) -> None:
        board = Board.open(store.board.path)
        assert board.try_claim(board.shards[0])
        with pytest.raises(StartError, match="another process has the row"):
            Server(store.board, 0, store.run_dir).open()
        board.close()

    def test_sockets_that_cannot_be_bound(self, store: Store, place: Path) -> None:
        deep = place / ("d" * 100)
        deep.mkdir()
        server = Server(store.board, 0, deep)
        with pytest.raises(StartError, match="cannot be bound"):
            server.open()
        server.log.close()
        server.map.close()


class TestPeers:
    def test_one_that_is_gone_holds_nobody_up(self, asking: Client, server: Server, store: Store) -> None:
        with client(store) as leaving:
            leaving.send(Put(b"k", b"1"))
            server.sockets.wait(20.0)
        turn_until(server, lambda: logged(store), "executed")
        assert asking.do(Put(b"k", b"2", want_previous=True)) == Replaced(2, True, b"1", 0, "", 1)

    def test_one_that_does_not_read_holds_nobody_up(self, asking: Client, server: Server) -> None:
        with client(asking.store, turn=asking.turn) as silent:
            for _ in range(20_000):
                silent.send(Delete(b"x"))
                server.turn(0)
                if server.sockets.dropped:
                    break
            assert server.sockets.dropped > 0
            assert asking.do(Delete(b"x")) == Done(0, False)
