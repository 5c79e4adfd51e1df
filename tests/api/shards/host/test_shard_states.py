"""The states of shards, by the board and the locks of their lives."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from shards.files import locks
from shards.host.board import ProcessRow
from shards.host.shard_states import ShardStates
from tests.stores import Store, new_store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = new_store(tmp_path)
    yield made
    made.close()


def test_a_shard_that_never_ran_is_down(store: Store) -> None:
    assert ShardStates(store.board).read_all() == ["down", "down"]


@pytest.mark.parametrize(
    ("state", "shown"), [(ProcessRow.STARTING, "starting"), (ProcessRow.UP, "up"), (ProcessRow.STOPPING, "stopping")]
)
def test_while_its_lock_is_held_a_shard_is_what_it_says(store: Store, state: int, shown: str) -> None:
    states = ShardStates(store.board)
    store.board.shards[1].state = state
    path = Path(store.board.facts.lock_dir) / "shard-1"
    path.touch()
    assert states.read_all() == ["down", "down"], "a free lock is that of a dead shard, whatever its row says"
    with path.open("r+b") as file:
        locks.acquire_for_life(file.fileno())
        assert states.read_all() == ["down", shown]
    assert states.read_state(1) == "down"


def test_a_shard_that_was_given_up_is_that(store: Store) -> None:
    store.board.shards[0].given_up = 1
    assert ShardStates(store.board).read_all() == ["given_up", "down"]
