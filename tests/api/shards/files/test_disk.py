"""The disk opens no link, creates what is new, and replaces what is there."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from shards.files.disk import DISK


def test_a_created_file_is_new_and_its_owner_s(tmp_path: Path) -> None:
    path = tmp_path / "f"
    target = tmp_path / "target"
    target.write_text("kept")
    path.symlink_to(target)
    fd = DISK.create(path)
    DISK.pwritev(fd, [b"ab", b"c"], 0)
    DISK.fdatasync(fd)
    assert DISK.pread(fd, 10, 1) == b"bc"
    DISK.close(fd)
    assert (path.read_bytes(), target.read_text()) == (b"abc", "kept")
    assert path.stat().st_mode & 0o777 == 0o600


def test_only_a_file_that_is_there_is_opened_and_no_link(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        DISK.open(tmp_path / "none")
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(OSError) as refused:
        DISK.open(tmp_path / "link")
    assert refused.value.errno == errno.ELOOP


def test_names_come_and_go(tmp_path: Path) -> None:
    DISK.close(DISK.create(tmp_path / "a"))
    DISK.rename(tmp_path / "a", tmp_path / "b")
    DISK.sync_directory(tmp_path)
    assert DISK.names(tmp_path) == ["b"]
    DISK.unlink(tmp_path / "b")
    DISK.unlink(tmp_path / "b")
    assert DISK.names(tmp_path) == []


def test_turns_exclude_each_other(tmp_path: Path) -> None:
    one, other = DISK.turn(tmp_path / "lock"), DISK.turn(tmp_path / "lock")
    with one:
        pass
    with other:
        pass
    one.close()
    other.close()
    assert (tmp_path / "lock").stat().st_mode & 0o777 == 0o600
