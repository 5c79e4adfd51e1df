"""Which workers are new since the last look at the board."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kvserver.serve.watch.new_workers import NewWorkers
from shards.host.board import Board, ProcessRow
from tests.facts import make_facts


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Board]:
    made = Board.create(tmp_path / "board", make_facts(str(tmp_path)))
    yield made
    made.close()


def test_only_what_came_up_since_the_last_look_is_new(board: Board) -> None:
    watch = NewWorkers(board)
    first, second, gateway = board.workers[0], board.workers[1], board.gateways[0]
    first.pid, first.state = 10, ProcessRow.UP
    assert watch.find_new() == []  # the start
    second.pid, second.state = 11, ProcessRow.STARTING
    gateway.pid, gateway.state = 12, ProcessRow.UP
    assert watch.find_new() == [("gateway", 12)]
    second.state = ProcessRow.UP
    assert watch.find_new() == [("web worker", 11)]
    first.pid = 13  # another process in the row of a dead one
    assert watch.find_new() == [("web worker", 13)]
    assert watch.find_new() == []
