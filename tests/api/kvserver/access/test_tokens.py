"""Tokens in effect and tickets, over a board and files: who is let in, and how processes follow the supervisor."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvserver.access import tokens
from kvserver.access.grants import EVERYTHING
from kvserver.access.tokens import Tokens, TokensError, hash_token, publish_tokens
from shards.wire.errors import Forbidden, InvalidToken, Unauthorized
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


def test_rights_that_are_handed_on_end_with_their_time(board: Clock) -> None:
    a = token("a", b"secret-a", read=(b"",), feed=(b"f/",))
    publish_tokens(board, [a])
    here = Tokens(board)
    text, end = here.hand_on(a.grants, [("read", b"x/")], 60)
    assert end == board.now().wall_ms + 60_000
    sent = b"Bearer " + text.encode()
    found = Tokens(board).authenticate(sent)
    assert (found.name, found.id, found.read, found.feed) == ("a", a.grants.id, (b"x/",), ())
    assert here.current_grants(found) == found and not here.has_ended(found) and here.unix_end(found) == end
    assert here.unix_end(a.grants) is None and not here.has_ended(a.grants)
    board.time_ms += 59_999
    assert here.authenticate(sent) == found
    longer, its_end = here.hand_on(found, [("read", b"x/y")], 600)
    assert its_end == end, "no longer than what it comes from"
    board.time_ms += 1
    assert here.has_ended(found) and here.current_grants(found) is None
    for ended in (text, longer):
        with pytest.raises(InvalidToken):
            here.authenticate(b"Bearer " + ended.encode())


def test_rights_that_are_handed_on_never_exceed_those_of_the_token(board: Clock) -> None:
    a = token("a", b"secret-a", read=(b"x/",), write=(b"x/",))
    publish_tokens(board, [a])
    here = Tokens(board)
    for pairs in ([("read", b"")], [("read", b"y/")], [("feed", b"x/")], [("read", b"x/"), ("admin", b"")]):
        with pytest.raises(Forbidden):
            here.hand_on(a.grants, pairs, 60)  # type: ignore[arg-type]
    text, _ = here.hand_on(a.grants, [("read", b"x/"), ("write", b"x/a/")], 60)
    sent = b"Bearer " + text.encode()
    publish_tokens(board, [token("a", b"secret-a", read=(b"x/1/", b"z/"))])
    assert here.refresh()
    assert (here.authenticate(sent).read, here.authenticate(sent).write) == ((b"x/1/",), ())
    publish_tokens(board, [token("b", b"secret-b", read=(b"",))])
    assert here.refresh()
    with pytest.raises(InvalidToken):
        here.authenticate(sent)
    for forged in (text[:-2], "kvd_", "kvd_" + "A" * 60, text + "AAAA"):
        with pytest.raises(InvalidToken):
            here.authenticate(b"Bearer " + forged.encode())
