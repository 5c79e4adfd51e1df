"""The file that keeps a cursor."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvserver.commands.feed.cursor_file import CursorFile


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    file = CursorFile(tmp_path / "cursor")
    assert file.load() is None
    file.save("e.1")
    file.save("e.2")
    assert CursorFile(tmp_path / "cursor").load() == "e.2"
    assert [path.name for path in tmp_path.iterdir()] == ["cursor"]


def test_an_empty_file_is_as_none(tmp_path: Path) -> None:
    (tmp_path / "cursor").write_text("\n")
    assert CursorFile(tmp_path / "cursor").load() is None


@pytest.mark.parametrize("content", [b"two words", b"a\nb", b"\xff", b"\x1b[2J", b"x" * 8192])
def test_what_is_no_cursor_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "cursor").write_bytes(content)
    with pytest.raises(ValueError, match="holds no cursor"):
        CursorFile(tmp_path / "cursor").load()


def test_a_save_that_fails_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = CursorFile(tmp_path / "cursor")
    file.save("e.1")

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        file.save("e.2")
    assert file.load() == "e.1"
    assert [path.name for path in tmp_path.iterdir()] == ["cursor"]


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        CursorFile(tmp_path / "none" / "cursor").save("e.1")
