"""Values that a command line gives."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from kvserver.commands.parts import sources
from kvserver.commands.parts.sources import read_file, read_input, text_bytes


def test_a_word_is_itself_as_it_was_typed() -> None:
    assert read_input("word", "it") == b"word"
    assert text_bytes("\udcff") == b"\xff"


def test_a_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"\0\xff")
    assert read_input(f"@{tmp_path}/file", "it") == b"\0\xff"
    with pytest.raises(click.UsageError, match="name of a file"):
        read_input("@", "it")


def test_a_file_that_cannot_be_read_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read_file(str(tmp_path / "none"))
    assert capsys.readouterr().err == f"kvserver: {tmp_path}/none cannot be read: No such file or directory\n"


def test_an_input_without_an_end_is_not_read_for_ever(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sources, "MOST_BYTES", 1 << 20)
    with pytest.raises(SystemExit):
        read_file("/dev/zero")
    assert "more than 1 MiB" in capsys.readouterr().err
