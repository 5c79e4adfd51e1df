"""When a worker of a cluster may show what it read, by the words of a real board."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from kvserver.store.reading import LAPSE_S, WAIT_S, ReadingRule
from shards.host.board import NONE, Board
from shards.order.membership import ASK_S, SILENCE_S
from shards.wire.errors import BadRequest, NotCurrent
from tests.stores import Store, new_store

FAR_S = 3600


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = new_store(tmp_path, 1, node="a", next_revision=100)
    made.board.show(made.board.history()[0], 99)
    grant(made.board, FAR_S)
    yield made
    made.close()


def grant(board: Board, seconds: float) -> None:
    """Let the machine show values for so long, by both clocks."""
    board.order.lease_until = time.clock_gettime_ns(time.CLOCK_BOOTTIME) + int(seconds * 1e9)
    board.order.lease_wall_until = time.time_ns() + int(seconds * 1e9)


def with_rule(board: Board, test: Callable[[ReadingRule], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        await test(ReadingRule(board, asyncio.get_running_loop()))

    asyncio.run(run())


def append(board: Board, revision: int) -> None:
    """Let the history end with `revision`; nobody else has it yet."""
    board.advance(board.history()[0] + 64, revision + 1)


def may_show(board: Board, revision: int = 0) -> bool:
    shown: list[bool] = []

    async def look(rule: ReadingRule) -> None:
        shown.append(rule.may_show(revision))

    with_rule(board, look)
    return shown[0]


def test_a_board_without_a_cluster_grants_for_ever(tmp_path: Path) -> None:
    made = new_store(tmp_path, 1)
    assert made.board.order.lease_until == NONE
    made.close()


def test_a_new_board_of_a_cluster_grants_nothing(tmp_path: Path) -> None:
    made = new_store(tmp_path, 1, node="a")
    assert not may_show(made.board, 1)
    made.close()


def test_local_reads_are_always_shown(tmp_path: Path) -> None:
    made = new_store(tmp_path, 1, node="a", reads="local")
    append(made.board, 1)
    assert may_show(made.board) and may_show(made.board, 1)
    made.close()


def test_what_other_machines_may_lack_is_not_shown(store: Store) -> None:
    assert may_show(store.board) and may_show(store.board, 99)
    append(store.board, 101)
    assert may_show(store.board, 99)
    assert not may_show(store.board, 100) and not may_show(store.board, 101)
    assert not may_show(store.board)  # that a key is absent may be of revision 100


@pytest.mark.parametrize("word", ["lease_until", "lease_wall_until"])
def test_either_clock_ends_the_lease(store: Store, word: str) -> None:
    setattr(store.board.order, word, 1)
    assert not may_show(store.board, 99)


def test_a_read_waits_until_its_item_is_everywhere(store: Store) -> None:
    append(store.board, 102)

    async def read(rule: ReadingRule) -> None:
        waiting = asyncio.ensure_future(rule.settle(101))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        store.board.show(0, 100)
        await asyncio.sleep(0.01)
        assert not waiting.done()
        store.board.show(0, 101)
        await waiting

    with_rule(store.board, read)


def test_a_read_that_waits_too_long_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvserver.store.reading.WAIT_S", 0.05)
    append(store.board, 100)

    async def read(rule: ReadingRule) -> None:
        with pytest.raises(NotCurrent, match="revision 100, which other machines may not have yet"):
            await rule.settle(100)
        with pytest.raises(NotCurrent, match="revision 200, which this machine does not have yet"):
            await rule.reach("200")

    with_rule(store.board, read)


def test_a_machine_that_was_counted_out_while_it_waited_shows_nothing(store: Store) -> None:
    append(store.board, 100)

    async def read(rule: ReadingRule) -> None:
        waiting = asyncio.ensure_future(rule.settle(100))
        await asyncio.sleep(0.01)
        store.board.order.lease_until = 1
        store.board.show(0, 100)
        with pytest.raises(NotCurrent, match="not heard of most of the cluster"):
            await waiting

    with_rule(store.board, read)


def test_a_read_waits_for_a_lease_that_has_just_ended(store: Store) -> None:
    grant(store.board, -LAPSE_S / 10)

    async def read(rule: ReadingRule) -> None:
        assert not rule.may_show(99)
        waiting = [asyncio.ensure_future(rule.settle(revision)) for revision in (99, 0)]
        await asyncio.sleep(0.01)
        assert not any(each.done() for each in waiting)
        grant(store.board, FAR_S)
        await asyncio.gather(*waiting)

    with_rule(store.board, read)


def test_a_read_gives_a_lease_up_that_does_not_come(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvserver.store.reading.LAPSE_S", 0.05)
    grant(store.board, 0)

    async def read(rule: ReadingRule) -> None:
        with pytest.raises(NotCurrent, match="not heard of most of the cluster"):
            await rule.settle(99)
        late = asyncio.ensure_future(rule.settle(99))
        await asyncio.sleep(0)
        assert late.done() and isinstance(late.exception(), NotCurrent), "it waits for nothing"

    with_rule(store.board, read)


def test_what_was_read_before_a_machine_was_put_out_is_not_shown_when_it_is_back(store: Store) -> None:
    store.board.order.entered = 7
    grant(store.board, -LAPSE_S / 10)

    async def read(rule: ReadingRule) -> None:
        began = rule.membership
        waiting = asyncio.ensure_future(rule.settle(99))
        await asyncio.sleep(0.01)
        store.board.order.entered = 9
        grant(store.board, FAR_S)
        with pytest.raises(NotCurrent, match="has just come back"):
            await waiting
        with pytest.raises(NotCurrent, match="has just come back"):
            await rule.settle(99, began)
        await rule.settle(99)

    with_rule(store.board, read)


def test_what_was_read_in_a_membership_that_is_over_is_not_shown(store: Store) -> None:
    async def read(rule: ReadingRule) -> None:
        store.board.order.entered = 9
        assert not rule.may_show(99)
        with pytest.raises(NotCurrent, match="has just come back"):
            await rule.settle(99)
        rule.refresh()
        assert rule.may_show(99)

    with_rule(store.board, read)


def test_only_so_many_reads_wait(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvserver.store.reading.MOST_WAITING", 2)
    append(store.board, 100)

    async def read(rule: ReadingRule) -> None:
        waiting = [asyncio.ensure_future(rule.settle(100)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(NotCurrent, match="2 reads wait"):
            await rule.settle(100)
        store.board.show(0, 100)
        await asyncio.gather(*waiting)

    with_rule(store.board, read)


def test_a_read_waits_for_longer_than_it_takes_to_put_a_machine_out() -> None:
    assert WAIT_S > SILENCE_S + 2 * ASK_S


def test_a_revision_is_reached_when_it_is_shown_here(store: Store) -> None:
    async def read(rule: ReadingRule) -> None:
        await rule.reach("99")
        waiting = asyncio.ensure_future(rule.reach("100"))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        append(store.board, 100)
        store.board.show(0, 100)
        await waiting

    with_rule(store.board, read)


@pytest.mark.parametrize("text", ["", "x", "-1", "1.0", "٣", "1" * 17])
def test_what_is_no_revision_is_refused(store: Store, text: str) -> None:
    async def read(rule: ReadingRule) -> None:
        with pytest.raises(BadRequest, match="expected a revision"):
            await rule.reach(text)

    with_rule(store.board, read)
