"""How a shard starts and ends when its lock, its run or its disk are not as they should be."""

from __future__ import annotations

import threading

import pytest

from shards.host.board import Board
from shards.log.appender import LogAppender
from shards.log.files import LogBroken
from shards.server.loop import ShardServer
from shards.server.sockets import StartError
from shards.wire.protocol import (
    Delete,
    Failed,
    Put,
)
from tests.api.shards.server.tools import Client, logged
from tests.stores import Store


class TestEnds:
    def test_a_stop_is_noticed_while_waiting_for_a_segment(
        self, asking: Client, server: ShardServer, store: Store
    ) -> None:
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
        self, asking: Client, server: ShardServer, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object) -> None:
            raise LogBroken("the disk is gone")

        monkeypatch.setattr(LogAppender, "flush", fail)
        asking.send(Put(b"k", b"v"), Delete(b"x"))
        server.sockets.wait(20.0)
        assert server.run() == 1
        assert not asking.dealer.poll(50)
        assert store.board.shards[0].incarnation == 0

    def test_a_broken_log_ends_an_idle_shard(self, server: ShardServer, store: Store) -> None:
        store.board.log.broken = 1
        assert server.run() == 1

    def test_another_board_ends_it(self, server: ShardServer, store: Store) -> None:
        store.board.path.unlink()
        assert server.run() == 1

    def test_stopping_refuses_what_waits(self, asking: Client, server: ShardServer, store: Store) -> None:
        ids = [asking.send(Put(b"k", b"v")) for _ in range(3)]
        server.sockets.wait(20.0)
        server.stop()
        assert server.run() == 0
        refusals = [asking.receive() for _ in ids]
        assert refusals == [(id, [Failed("unavailable", "the shard is stopping")]) for id in ids]
        assert logged(store) == []

    def test_only_one_of_it(self, server: ShardServer, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("shards.server.loop._LOCK_S", 0.0)
        with pytest.raises(StartError, match="shard 0 is running already"):
            ShardServer(store.board, 0, store.run_dir)

    def test_a_row_that_another_has(self, store: Store) -> None:
        board = Board.open(store.board.path)
        assert board.try_claim(board.shards[0])
        with pytest.raises(StartError, match="another process has the row"):
            ShardServer(store.board, 0, store.run_dir)
        board.close()
