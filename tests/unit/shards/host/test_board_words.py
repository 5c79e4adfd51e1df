"""The figures of a row are those of one publication, and counters go on over processes."""

from __future__ import annotations

from collections.abc import Callable

from shards.host.board import Board, ShardRow
from tests.unit.shards.host.tools import in_another_process


def figures(value: int) -> dict[str, int]:
    return dict.fromkeys(ShardRow.FIGURES, value)


def test_figures_are_shown_as_published(board: Board, opened: Callable[[], Board]) -> None:
    row = opened().shards[0]
    assert row.read_figures() == figures(0)
    board.shards[0].publish_figures(figures(5))
    assert row.read_figures() == figures(5)


def test_a_writer_that_died_inside_hides_nothing_and_mends_itself(board: Board, opened: Callable[[], Board]) -> None:
    board.shards[0].publish_figures(figures(5))
    row = opened().shards[0]
    assert row.read_figures() == figures(5)
    at = row.base + row._FIGURES_AT
    board.words[at] |= 1  # begun ...
    board.words[at + 1] = 99  # ... and killed
    assert row.read_figures() == figures(5)
    board.shards[0].publish_figures(figures(6))  # its successor
    assert row.read_figures() == figures(6)


def test_counters_go_on_from_a_dead_predecessor_and_what_lives_does_not(board: Board) -> None:
    code = "row = board.shards[0]; board.try_claim(row); row.publish_figures(dict.fromkeys(row.FIGURES, 5))"
    with in_another_process(board, code):
        pass
    row = board.shards[0]
    row.words[row.base + row._FIGURES_AT] |= 1  # it died while it published
    assert board.try_claim(row)
    assert row.starts == 2
    row.publish_figures(figures(1))
    assert row.read_figures() == dict.fromkeys(row.COUNTERS, 6) | dict.fromkeys(set(row.FIGURES) - set(row.COUNTERS), 1)
    assert row.FIGURES[: len(row.COUNTERS)] == row.COUNTERS


def test_rows_that_were_used_are_known(board: Board) -> None:
    with in_another_process(
        board, "row = board.workers.claim_row()[1]; row.publish_figures(dict.fromkeys(row.FIGURES, 3))"
    ):
        pass
    assert [i for i, _ in board.workers.used_rows()] == [0]
    assert board.workers.living_rows() == []
    _, row = board.workers.claim_row()
    assert set(row.read_figures().values()) == {3}, "before it shows any of its own"


def test_figures_read_beside_a_writer_belong_together(board: Board) -> None:
    code = "for i in range(1, 50_001): board.shards[0].publish_figures(dict.fromkeys(ShardRow.FIGURES, i))"
    with in_another_process(board, code):
        last = 0
        while last < 50_000:
            values = set(board.shards[0].read_figures().values())
            assert len(values) == 1
            assert min(values) >= last
            last = values.pop()
