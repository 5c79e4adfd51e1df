"""The shared table: pairs that survive a killed writer, rows held for life, the watermark's rule."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shards.host.board import MAX_GATEWAYS, NONE, Board, BoardError, BoardNotBelieved, ProcessRow
from shards.host.board_words import LOG_AT
from shards.wire.clock import Now
from tests.system.harness import wait_for
from tests.unit.shards.host.tools import FACTS, in_another_process

# Finding it.


def test_facts_and_words_are_the_same_for_everybody(board: Board, opened: Callable[[], Board]) -> None:
    other = opened()
    assert other.facts == FACTS
    assert other.id == board.id
    board.shards[1].open = 77
    assert other.shards[1].open == 77


def test_a_board_that_is_not_installed_is_not_found(tmp_path: Path) -> None:
    board = Board.create(tmp_path / "board", FACTS)
    with pytest.raises(BoardError, match="kvserver serve"):
        Board.open(board.path)
    board.close()


def test_what_is_no_board_or_is_not_recovered_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "text").write_bytes(b"x" * 100_000)
    for name in ("empty", "text"):
        with pytest.raises(BoardError, match="not a board"):
            Board.open(tmp_path / name)
    board = Board.create(tmp_path / "board", FACTS)
    with pytest.raises(BoardError, match="not recovered"):
        Board.open(tmp_path / "board.new")
    board.close()


NO_BOARDS: dict[str, Callable[[bytes], bytes]] = {
    "40 bytes": lambda found: found[:40],
    "cut": lambda found: found[:-8],
    "longer": lambda found: found + bytes(8),
    "facts that are none": lambda found: found.replace(b'{"', b'["', 1),
    "facts without end": lambda found: found[:24] + b"\xff" * 8 + found[32:],
    "no shards": lambda found: found.replace(b'"shards":3', b'"shards":0'),
    "shards beyond its rows": lambda found: found.replace(b'"shards":3', b'"shards":333').replace(
        b"/d/locks", b"/locks"
    ),
}


@pytest.mark.parametrize("kind", NO_BOARDS)
def test_what_is_no_whole_board_is_not_believed(board: Board, tmp_path: Path, kind: str) -> None:
    (tmp_path / "other").write_bytes(NO_BOARDS[kind](board.path.read_bytes()))
    with pytest.raises(BoardNotBelieved, match="not a board of this version"):
        Board.open(tmp_path / "other")


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        ("a FIFO", os.mkfifo),
        ("a directory", os.mkdir),
        ("a link", lambda path: path.symlink_to("/dev/zero")),
    ],
)
def test_what_is_no_file_is_not_waited_for(tmp_path: Path, kind: str, make: Callable[[Path], None]) -> None:
    make(tmp_path / "board")
    with pytest.raises(BoardNotBelieved, match=f"it is {kind}, not a file"):
        Board.open(tmp_path / "board")


def test_a_run_is_over_when_a_fifo_is_in_the_place_of_its_board(board: Board) -> None:
    board.path.unlink()
    os.mkfifo(board.path)
    assert board.is_over()


STRANGER = 12345


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user")
@pytest.mark.parametrize("theirs", ["board", "."])
def test_a_board_of_another_user_is_not_believed(board: Board, tmp_path: Path, theirs: str) -> None:
    os.chown(tmp_path / theirs, STRANGER, STRANGER)
    with pytest.raises(BoardNotBelieved, match="belongs to the user with id 12345"):
        Board.open(board.path)
    Board.open(board.path, [0, STRANGER]).close()


def test_facts_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BoardError, match="shorten"):
        Board.create(tmp_path / "board", msgspec.structs.replace(FACTS, data_dir="x" * 9000))


def test_a_new_board_in_its_place_is_noticed_and_leaves_the_old_one_whole(board: Board) -> None:
    assert not board.is_over()
    board.advance(10, 11)
    new = Board.create(board.path, FACTS)
    assert not board.is_over()
    new.install()
    assert board.is_over()
    assert not new.is_over()
    assert board.history() == (10, 11)
    new.path.unlink()
    assert new.is_over()
    new.close()


def test_a_run_is_over_when_its_supervisor_is_gone(tmp_path: Path) -> None:
    made = Board.create(tmp_path / "board", FACTS)
    made.install()
    seen = Board.open(made.path)
    row = seen.shards[0]
    assert seen.try_claim(row)
    assert not seen.is_over()
    made.close()
    assert seen.is_over()
    seen.close()


def test_want_of_descriptors_ends_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Board.create(tmp_path / "board", FACTS)
    made.install()

    def refuse(*_: object, **__: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr("shards.host.board.os.open", refuse)
        assert not made.is_over()
    made.path.unlink()
    assert made.is_over()
    made.close()


# The history.


def test_the_history_is_the_last_pair_shown(board: Board) -> None:
    assert board.history() == (0, 0)
    for i in range(1, 6):
        board.advance(100 * i, i)
        assert board.history() == (100 * i, i)
    assert board.last_revision() == 4


def test_a_writer_killed_before_the_turn_leaves_the_pair_that_was(board: Board) -> None:
    board.advance(100, 1)
    slot = LOG_AT + 2 * ((board.log.turn + 1) & 1)
    for word, value in ((slot, 200), (slot + 1, 2)):
        board.words[word] = value  # the steps of advance(), one by one
        assert board.history() == (100, 1)
    board.log.turn += 1
    assert board.history() == (200, 2)


def test_pairs_read_beside_a_writer_belong_together(board: Board) -> None:
    with in_another_process(board, "for i in range(1, 200_000): board.advance(3 * i, i)"):
        seen = 0
        while seen < 3 * 199_999:
            tail, following = board.history()
            assert tail == 3 * following
            assert tail >= seen
            seen = tail


# The watermark.


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.none() | st.integers(1, 100), min_size=3, max_size=3))
def test_the_watermark_is_the_least_of_the_end_and_all_that_is_open(board: Board, opened: list[int | None]) -> None:
    board.advance(500, 50)
    for row, revision in zip(board.shards, opened, strict=True):
        row.clear_open()
        if revision:
            row.open_revision, row.open = revision, 10 * revision
    least = min([50, *(revision for revision in opened if revision)])
    assert board.watermark() == (10 * least, least - 1)


def test_a_record_is_open_only_when_its_lsn_is_named(board: Board) -> None:
    board.advance(500, 50)
    board.shards[0].open_revision = 40  # of one that was killed before the next word, or after clearing it
    assert board.watermark() == (500, 49)


def test_nothing_is_open_on_a_new_board(board: Board) -> None:
    board.advance(500, 50)
    assert board.watermark() == (500, 49)
    assert all(row.open == row.open_revision == NONE for row in board.shards)


def test_the_watermark_never_passes_what_a_writer_has_open(board: Board) -> None:
    # The writer names its record before it shows it, and clears it when it is "applied": at no moment may the
    # watermark cover a record that is not.
    code = (
        "row = board.shards[0]\n"
        "for i in range(1, 100_001):\n"
        "    row.open_revision = i; row.open = 10 * i\n"
        "    board.advance(10 * i + 10, i + 1)\n"
        "    row.incarnation = i  # applied\n"
        "    row.clear_open()\n"
    )
    board.advance(10, 1)
    with in_another_process(board, code):
        revision = 0
        while revision < 100_000:
            lsn, revision = board.watermark()
            applied = board.shards[0].incarnation
            assert revision <= applied
            assert lsn == 10 * (revision + 1)


# Figures.


# Rows for life.


def test_a_claimed_row_is_zeroed_named_and_taken(board: Board, opened: Callable[[], Board]) -> None:
    board.workers[0].in_flight = 9
    index, row = board.workers.claim_row()
    assert (index, row.pid, row.state, row.in_flight) == (0, os.getpid(), ProcessRow.STARTING, 0)
    assert row.heartbeat_ns > 0
    other = opened()
    assert [i for i, _ in other.workers.living_rows()] == [0]
    assert other.workers.claim_row()[0] == 1
    assert [i for i, _ in board.workers.living_rows()] == [0, 1]
    assert [i for i, _ in board.gateways.living_rows()] == []


def test_a_row_of_a_dead_process_is_free_again(board: Board) -> None:
    with in_another_process(board, "index, row = board.gateways.claim_row()\nrow.clients = 5") as process:
        wait_for(lambda: list(board.gateways.living_rows()), "the claim")
        assert [row.pid for _, row in board.gateways.living_rows()] == [process.pid]
    assert list(board.gateways.living_rows()) == []
    index, row = board.gateways.claim_row()
    assert (index, row.clients) == (0, 0)


def test_all_rows_taken(board: Board) -> None:
    for _ in range(MAX_GATEWAYS):
        board.gateways.claim_row()
    with pytest.raises(BoardError, match="32 rows"):
        board.gateways.claim_row()


def test_every_row_is_claimed_once_by_many_at_a_time(board: Board, opened: Callable[[], Board]) -> None:
    boards = [opened() for _ in range(8)]
    taken: list[int] = []

    def claim(own: Board) -> None:
        taken.extend(own.gateways.claim_row()[0] for _ in range(4))

    threads = [threading.Thread(target=claim, args=(own,)) for own in boards]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == list(range(32))


def test_steady_time_is_boot_time_and_the_offset_and_wall_time_the_clock_s(board: Board) -> None:
    def moment() -> Now:
        steady_ms = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000 + FACTS.clock_offset_ms
        return Now(time.time_ns() // 1_000_000, steady_ms)

    for read in (lambda: board.now(), lambda: Now(board.now_ms(), board.steady_ms())):
        before, now, after = moment(), read(), moment()
        assert before.wall_ms <= now.wall_ms <= after.wall_ms
        assert before.steady_ms <= now.steady_ms <= after.steady_ms


def test_all_processes_tell_the_end_of_a_lifetime_as_the_same_time(
    board: Board, opened: Callable[[], Board], monkeypatch: pytest.MonkeyPatch
) -> None:
    other, real, set_by_ns = opened(), time.time_ns, 0
    monkeypatch.setattr(time, "time_ns", lambda: real() + set_by_ns)
    behind_ms = board.now().behind_ms
    for drift_ms in (1, 4, -2):  # what a clock that is being corrected drifts by, and what rounding does
        set_by_ns = drift_ms * 1_000_000
        assert board.now().behind_ms == other.now().behind_ms == behind_ms
    set_by_ns = 3_600_000_000_000
    assert abs(other.now().behind_ms - (behind_ms - 3_600_000)) <= 5
    assert board.now().behind_ms == other.now().behind_ms


def test_a_process_that_waits_between_two_clocks_does_not_take_it_for_a_step(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    behind_ms, real, waits = board.now().behind_ms, time.time_ns, [0.02]

    def after_a_while() -> int:
        if waits:
            time.sleep(waits.pop())
        return real()

    monkeypatch.setattr(time, "time_ns", after_a_while)
    assert board.now().behind_ms == behind_ms
