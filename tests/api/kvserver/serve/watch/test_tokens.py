"""How the tokens in effect follow the file, look by look."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvserver.access import tokens as in_effect
from kvserver.access.tokenedit import add_token, remove_token
from kvserver.access.tokenfile import read_file
from kvserver.access.tokens import Tokens, publish_tokens
from kvserver.serve.watch.tokens import TokenWatch
from shards.host.board import Board
from tests.api.kvserver.access.boards import make_board


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Board]:
    board = make_board(tmp_path)
    yield board
    board.close()


def with_token(text: str, name: str) -> str:
    return add_token(text, "f", name, f"kv_{name}", [("", ["read"])])


ONE = with_token("", "one")
BOTH = with_token(ONE, "two")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tokens.toml"
    path.write_text(BOTH)
    path.chmod(0o600)
    return path


@pytest.fixture
def watch(board: Board, file: Path) -> TokenWatch:
    """One that has looked."""
    tokens = read_file(file)
    publish_tokens(board, tokens)
    watch = TokenWatch(board, file, tokens)
    for _ in range(3):
        watch.check_file()
    assert board.log.tokens == 1
    return watch


def names(board: Board) -> list[str]:
    return [grants.name for grants in Tokens(board).all_grants()]


def test_two_looks_take_a_change_over(board: Board, file: Path, watch: TokenWatch) -> None:
    file.write_text(ONE)
    watch.check_file()
    assert names(board) == ["one", "two"]
    watch.check_file()
    assert names(board) == ["one"]
    for _ in range(3):
        watch.check_file()
    assert board.log.tokens == 2


def test_who_asks_has_it_at_once(board: Board, file: Path, watch: TokenWatch) -> None:
    file.write_text(ONE)
    watch.check_file(asked=True)
    assert names(board) == ["one"]


def test_what_is_half_written_never_counts(board: Board, file: Path, watch: TokenWatch) -> None:
    """Half of a token file may be one, and an empty file is."""
    whole = remove_token(BOTH, "f", "one")
    for end in range(len(whole)):
        file.write_text(whole[:end])
        watch.check_file()
        assert names(board) == ["one", "two"]
    file.write_text(whole)
    watch.check_file()
    watch.check_file()
    assert names(board) == ["two"]


def test_while_the_file_cannot_be_used_the_old_tokens_hold(
    board: Board, file: Path, watch: TokenWatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And it is said once of each thing that is wrong, and when all is well again."""
    caplog.set_level(logging.INFO)
    for spoil in (
        lambda: file.write_text("nonsense"),
        lambda: file.write_bytes(b"\xff"),
        lambda: file.chmod(0o622),
        lambda: file.unlink(),
        lambda: file.mkdir(),
    ):
        caplog.clear()
        spoil()
        for _ in range(4):
            watch.check_file()
        assert [record.levelname for record in caplog.records] == ["ERROR"]
        assert "the tokens that are in effect stay" in caplog.text and str(file) in caplog.text
        assert names(board) == ["one", "two"]
    caplog.clear()
    watch.check_file(asked=True)
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    file.rmdir()
    file.write_text(BOTH)
    caplog.clear()
    for _ in range(4):
        watch.check_file()
    assert [record.getMessage() for record in caplog.records] == ["tokens are in effect: one, two"]
    assert board.log.tokens == 1


def test_what_cannot_be_handed_on_is_tried_again(board: Board, file: Path, watch: TokenWatch, tmp_path: Path) -> None:
    obstacle = tmp_path / (in_effect.FILE + ".new")
    obstacle.mkdir()
    file.write_text(ONE)
    for _ in range(4):
        watch.check_file()
    assert names(board) == ["one", "two"]
    obstacle.rmdir()
    watch.check_file()
    assert names(board) == ["one"]


def test_comments_change_nothing(board: Board, file: Path, watch: TokenWatch) -> None:
    file.write_text("# new\n" + BOTH)
    for _ in range(3):
        watch.check_file()
    assert board.log.tokens == 1
