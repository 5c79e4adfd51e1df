"""Tokens in effect and tickets, over a board and files: who is let in, and how processes follow the supervisor."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvserver.access import tokens
from kvserver.access.grants import EVERYTHING
from kvserver.access.tokens import Tokens, TokensError, hash_token, publish_tokens
from shards.wire.errors import InvalidToken, Unauthorized
from tests.api.kvserver.access.boards import Clock, token


def test_without_tokens_everybody_may_do_everything(board: Clock) -> None:
    here = Tokens(board)
    assert not here.required
    for authorization in (None, b"Bearer x", b"nonsense"):
        assert here.authenticate(authorization) is EVERYTHING
    assert here.current_grants(EVERYTHING) is EVERYTHING


def test_who_is_let_in(board: Clock) -> None:
    a, b = token("a", b"secret-a", read=(b"",)), token("b", b"secret-b")
    publish_tokens(board, [a, b])
    here = Tokens(board)
    assert here.required
    for sent in (b"Bearer secret-a", b"bearer secret-a", b"BEARER   secret-a", b" Bearer secret-a\t"):
        assert here.authenticate(sent) == a.grants
    assert here.authenticate(b"Bearer secret-b") == b.grants
    for sent in (
        b"Bearer",
        b"Bearer ",
        b"Bearer secret",
        b"Bearer secret-a2",
        b"Bearer secret-a secret-b",
        b"Bearer secret-a,Bearer secret-b",
        b"Bearer " + hash_token(b"secret-a").hex().encode(),
        b"Bearer a",
        b"Bearer =",
        b"Bearer \xff",
    ):
        with pytest.raises(InvalidToken):
            here.authenticate(sent)
    for sent in (None, b"", b"Basic c2VjcmV0LWE=", b"secret-a", b"Bearersecret-a", b"Bearer\tsecret-a"):
        with pytest.raises(Unauthorized) as refused:
            here.authenticate(sent)
        assert type(refused.value) is Unauthorized


def test_a_token_may_be_written_in_many_ways(board: Clock) -> None:
    """More than are remembered."""
    a = token("a", b"secret-a", read=(b"",))
    publish_tokens(board, [a])
    here = Tokens(board)
    for _ in range(2):
        for spaces in range(1, 1200):
            assert here.authenticate(b"Bearer" + b" " * spaces + b"secret-a") == a.grants


def test_a_file_without_tokens_lets_nobody_in(board: Clock) -> None:
    publish_tokens(board, [])
    here = Tokens(board)
    with pytest.raises(Unauthorized):
        here.authenticate(None)
    with pytest.raises(InvalidToken):
        here.authenticate(b"Bearer x")


def test_processes_follow(board: Clock) -> None:
    a, b = token("a", b"secret-a", read=(b"",)), token("b", b"secret-b")
    publish_tokens(board, [a, b])
    here = Tokens(board)
    grants = here.authenticate(b"Bearer secret-a")
    assert not here.refresh()
    less = token("a", b"secret-a", read=(b"x/",))
    publish_tokens(board, [less])
    assert here.authenticate(b"Bearer secret-b") == b.grants  # until it looks
    assert here.refresh() and not here.refresh()
    assert here.authenticate(b"Bearer secret-a") == here.current_grants(grants) == less.grants
    assert here.current_grants(b.grants) is here.current_grants(EVERYTHING) is None
    with pytest.raises(InvalidToken):
        here.authenticate(b"Bearer secret-b")
    publish_tokens(board, [token("a", b"another", read=(b"",))])
    assert here.refresh()
    assert here.current_grants(grants) is None, "another token of the same name is another token"


def test_the_file_is_for_this_user_alone(board: Clock, tmp_path: Path) -> None:
    publish_tokens(board, [token("a", b"secret-a")])
    path = tmp_path / tokens.FILE
    assert path.stat().st_mode & 0o777 == 0o600
    assert b"secret-a" not in path.read_bytes()


def test_while_the_file_cannot_be_read_the_old_tokens_hold(board: Clock, tmp_path: Path) -> None:
    a, b = token("a", b"secret-a"), token("b", b"secret-b")
    publish_tokens(board, [a])
    here = Tokens(board)
    publish_tokens(board, [b])
    path = tmp_path / tokens.FILE
    for broken in (lambda: path.unlink(), lambda: path.write_bytes(b"\xc1")):
        broken()
        assert not here.refresh()
        assert here.authenticate(b"Bearer secret-a") == a.grants
        with pytest.raises(TokensError):
            Tokens(board)
    publish_tokens(board, [b])
    assert here.refresh()
    assert here.authenticate(b"Bearer secret-b") == b.grants


# Tickets


# Streams that tickets opened


# What stands in the place of tickets
