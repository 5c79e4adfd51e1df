"""Errors of the system are told for what they are, and nothing is concluded from what could not be seen."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import lmdb
import pytest

from kvserver.commands.local import local_store
from kvserver.commands.local.local_store import CommandRefused, open_running_board, serving_pid
from kvserver.serve.deployment import exit_if_run_is_over
from kvserver.serve.store import explain_os_error
from kvserver.settings import ServerSettings
from shards.backup import check
from shards.backup.check import check_log
from shards.host.board import Board, BoardError, BoardOutOfReach
from shards.log.files import segment_name
from shards.log.manifest import Manifest
from shards.log.recovery import last_board
from shards.maps import layout
from shards.maps.layout import means_full
from shards.maps.space import Ballast
from shards.wire.errors import EXHAUSTED, NO_SPACE, kv_error_of
from tests.api.maps import Run, first_run, put

NUMBERS = [
    errno.ENOENT,
    errno.EACCES,
    errno.EPERM,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EIO,
    errno.ENOTDIR,
    errno.ENAMETOOLONG,
    errno.ELOOP,
    errno.ENOMEM,
]
PASSING = [errno.EMFILE, errno.ENFILE, errno.EACCES, errno.EIO]
"""What says nothing of whether a file is there."""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = first_run(tmp_path, shards=1).open()
    run.write(put(b"k"))
    return run


def failing(number: int, path: Path) -> OSError:
    return OSError(number, os.strerror(number), str(path))


@pytest.mark.parametrize("number", NUMBERS)
def test_a_client_is_told_of_space_only_where_there_is_none(number: int) -> None:
    error = kv_error_of(failing(number, Path("x")), "the ticket cannot be written")
    expected = "insufficient_storage" if number in NO_SPACE else "overloaded" if number in EXHAUSTED else "internal"
    assert error.code == expected
    assert error.detail == f"the ticket cannot be written: {os.strerror(number)}"


@pytest.mark.parametrize("number", NUMBERS)
def test_an_operator_is_told_of_space_only_where_there_is_none(number: int, tmp_path: Path) -> None:
    told = explain_os_error(failing(number, tmp_path / "x"), tmp_path)
    assert str(tmp_path / "x") in told
    assert ("no space left" in told) == (number in NO_SPACE)
    assert ("ulimit -n" in told) == (number == errno.EMFILE)
    assert ("disk fails" in told) == (number == errno.EIO)


@pytest.mark.parametrize("number", PASSING)
def test_a_board_that_cannot_be_opened_is_not_taken_for_none(
    run: Run, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    store = run.store
    settings = ServerSettings(data_dir=store.data_dir, run_dir=store.run_dir)
    manifest, boot = Manifest.load(store.data_dir), run.board.facts.boot_id

    def fail(path: Path, *_: object, **__: object) -> int:
        raise failing(number, path)

    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(BoardOutOfReach, match=os.strerror(number)):
        Board.open(store.run_dir / "board")
    with pytest.raises(BoardOutOfReach):  # what it says of the last flush would be missed
        last_board(store.run_dir / "board", manifest, boot)
    with pytest.raises(CommandRefused, match=os.strerror(number)):
        open_running_board(settings)
    with pytest.raises(OSError, match=os.strerror(number)):
        serving_pid(store.data_dir)
    exit_if_run_is_over(settings)  # ends no master


def test_a_board_that_is_not_there_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "board", tmp_path / "file" / "board"):
        with pytest.raises(BoardError) as raised:
            Board.open(path)
        assert not isinstance(raised.value, BoardOutOfReach)
    assert serving_pid(tmp_path) is None
    assert local_store.open_running_board(ServerSettings(data_dir=tmp_path, run_dir=tmp_path)) is None


@pytest.mark.parametrize("number", PASSING)
def test_a_segment_that_cannot_be_read_is_not_told_as_damaged(
    run: Run, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Else a repair would cut a log that is whole."""

    def fail(path: Path, _: int) -> bytes:
        raise failing(number, path)

    monkeypatch.setattr(check, "read_regular", fail)
    with pytest.raises(OSError, match=f"{os.strerror(number)}.*{segment_name(0)}"):
        check_log(run.store.log_dir, Manifest.load(run.store.data_dir), run.board.history()[0])


@pytest.mark.parametrize(("room", "full"), [(1 << 40, False), (0, True), (48 << 20, True)])
def test_an_error_of_the_disk_is_want_of_room_only_where_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int, full: bool
) -> None:
    monkeypatch.setattr(layout, "free_bytes", lambda _: room)
    assert means_full(lmdb.Error(f"mdb_txn_commit: {os.strerror(errno.EIO)}"), tmp_path) == full
    assert means_full(lmdb.Error(f"mdb_txn_commit: {os.strerror(errno.ENOSPC)}"), tmp_path)
    assert not means_full(lmdb.Error(f"mdb_txn_commit: {os.strerror(errno.EACCES)}"), tmp_path)


@pytest.mark.parametrize(("number", "no_room"), [(errno.ENOSPC, True), (errno.EDQUOT, True), (errno.EIO, False)])
def test_a_ballast_that_fails_for_another_reason_is_not_want_of_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, no_room: bool
) -> None:
    def fail(*_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "posix_fallocate", fail)
    if no_room:
        assert not Ballast(tmp_path / "ballast", 4096).there
    else:
        with pytest.raises(OSError, match=f"{os.strerror(number)}.*ballast"):
            Ballast(tmp_path / "ballast", 4096)
