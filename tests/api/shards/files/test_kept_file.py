"""A file that others are found by is made again when somebody removes it."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from shards.files.kept_file import KeptFile, inode_of


def test_a_file_that_is_gone_or_another_is_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "socket"
    made: list[int] = []

    def make() -> None:
        path.unlink(missing_ok=True)
        path.write_text("")
        made.append(1)

    kept = KeptFile(path, make)
    kept.restore_if_gone()
    assert kept.is_there() and len(made) == 1, "nothing is done while it is there"
    path.unlink()
    assert not kept.is_there()
    kept.restore_if_gone()
    assert kept.is_there() and len(made) == 2
    other = tmp_path / "other"
    other.write_text("")
    other.rename(path)
    kept.restore_if_gone()
    assert kept.is_there() and len(made) == 3
    assert len(caplog.records) == 2
    kept.remove()
    kept.remove()
    assert inode_of(path) == 0


def test_what_cannot_be_made_is_tried_again_and_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, works = tmp_path / "socket", [True]

    def make() -> None:
        if not works[0]:
            raise RuntimeError("no address")
        path.write_text("")

    kept = KeptFile(path, make)
    path.unlink()
    works[0] = False
    for _ in range(3):
        kept.restore_if_gone()
    assert [record.levelno for record in caplog.records] == [logging.WARNING, logging.ERROR]
    works[0] = True
    kept.restore_if_gone()
    assert kept.is_there()
    assert caplog.records[-1].getMessage().endswith("is there again")


def test_the_first_attempt_raises(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        KeptFile(tmp_path / "none" / "socket", (tmp_path / "none" / "socket").touch)
