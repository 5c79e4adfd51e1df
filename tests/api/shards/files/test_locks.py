"""Locks for life and turns: who holds them, and whose their files are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shards.files import locks
from shards.log.pins import NAME, pin_log
from tests.api.shards.log.tools import names


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files for others")
def test_a_lock_that_root_makes_is_the_server_s(tmp_path: Path) -> None:
    os.chown(tmp_path, 12345, 23456)
    with pin_log(tmp_path):  # a backup as root
        pass
    status = (tmp_path / NAME).stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (12345, 23456, 0o600)
    assert names(tmp_path) == [NAME]


def test_a_lock_for_life_is_one_open_file_s_until_it_is_closed(tmp_path: Path) -> None:
    one, other = locks.open_lock(tmp_path / "lock"), locks.open_lock(tmp_path / "lock")
    assert locks.try_acquire_for_life(one)
    assert not locks.try_acquire_for_life(other)
    assert locks.is_held(other) and not locks.is_held(one), "by another than the one that asks"
    assert locks.try_acquire_for_life(other, byte=8), "each byte is a lock of its own"
    os.close(one)
    assert not locks.is_held(other)
    assert locks.acquire_for_life(other, timeout_s=5)
    os.close(other)


def test_a_wait_for_a_lock_ends(tmp_path: Path) -> None:
    one, other = locks.open_lock(tmp_path / "lock"), locks.open_lock(tmp_path / "lock")
    assert locks.try_acquire_for_life(one)
    assert not locks.acquire_for_life(other, timeout_s=0.02)
    os.close(one)
    os.close(other)


def test_a_lock_is_no_link(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="it is a link"):
        locks.open_lock(tmp_path / "lock")
    assert not (tmp_path / "elsewhere").exists()
