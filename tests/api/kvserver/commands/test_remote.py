"""The server of a command: its URL and its token, and what is refused as one."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from kvserver.commands.parts.servers import read_token
from kvserver.commands.remote import open_remote, records_text


@pytest.mark.parametrize("text", ["kv_secret\n", "kv_secret\r\n", " kv_secret \n", "\ufeffkv_secret\n"])
def test_a_token_in_the_environment_is_as_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    file = tmp_path / "token"
    file.write_bytes(text.encode())
    assert read_token(file) == "kv_secret"
    monkeypatch.setenv("KVSERVER_TOKEN", text.replace("\ufeff", ""))
    assert read_token(None) == "kv_secret"
    monkeypatch.setenv("KVSERVER_TOKEN", "\n")
    assert read_token(None) is None


@pytest.mark.parametrize("text", ["", "two words", "k\u00e9y", "a\nb"])
def test_what_is_no_token_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "token"
    file.write_text(text)
    with pytest.raises(click.UsageError, match=f"{file} holds no token"), open_remote("http://h:1", file, 1):
        pass


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    says = f"cannot read the token: No such file or directory .{tmp_path}/absent"
    with pytest.raises(click.UsageError, match=says), open_remote("http://h:1", tmp_path / "absent", 1):
        pass


def test_the_server_is_this_machine_s_unless_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVSERVER_PORT", "8123")
    with open_remote(None, None, 1) as remote:
        assert remote.url == "http://localhost:8123"
    with open_remote("https://kv.example", None, 1) as remote:
        assert remote.url == "https://kv.example"
    monkeypatch.setenv("KVSERVER_PORT", "0")
    with pytest.raises(click.UsageError, match="--url or KVSERVER_URL"), open_remote(None, None, 1):
        pass


@pytest.mark.parametrize(("count", "text"), [(0, "0 records"), (1, "1 record"), (1500, "1,500 records")])
def test_counts_are_written_out(count: int, text: str) -> None:
    assert records_text(count) == text
