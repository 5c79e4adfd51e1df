"""Tokens in effect and tickets, over a board and files: who is let in, and how processes follow the supervisor."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kvserver.access import tickets, tokens
from kvserver.access.grants import EVERYTHING, Grants
from kvserver.access.tickets import LIFETIME_S, Tickets, sweep
from kvserver.access.tokens import Token, Tokens, TokensError, digest, publish
from shards.board import Board, Facts
from shards.errors import BadTicket, Forbidden, InvalidToken, Overloaded, Unauthorized


class Clock(Board):
    """A board whose time is the test's."""

    now = 1_000_000

    def now_ms(self) -> int:
        return self.now


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Clock]:
    where = str(tmp_path)
    (tmp_path / tickets.DIRECTORY).mkdir()
    board = Clock.create(
        tmp_path / "board",
        Facts(
            version="0", store="s", epoch="e", boot_id="b", secret=1, shards=1, sync="os", in_memory=False,
            data_dir=where, lock_dir=where, log_dir=where, map_dir=where, max_value=1, clock_offset_ms=0,
            supervisor_pid=1, started_ms=0,
        ),
    )  # fmt: skip
    assert isinstance(board, Clock)
    yield board
    board.close()


def token(name: str, secret: bytes, **grants: tuple[bytes, ...]) -> Token:
    return Token(digest(secret), Grants(name, digest(secret).hex()[:16], **grants))


def test_without_tokens_everybody_may_do_everything(board: Clock) -> None:
    here = Tokens(board)
    assert not here.required
    for authorization in (None, b"Bearer x", b"nonsense"):
        assert here.authenticate(authorization) is EVERYTHING
    assert here.current(EVERYTHING) is EVERYTHING


def test_who_is_let_in(board: Clock) -> None:
    a, b = token("a", b"secret-a", read=(b"",)), token("b", b"secret-b")
    publish(board, [a, b])
    here = Tokens(board)
    assert here.required
    for sent in (b"Bearer secret-a", b"bearer secret-a", b"BEARER   secret-a", b" Bearer secret-a\t"):
        assert here.authenticate(sent) == a.grants
    assert here.authenticate(b"Bearer secret-b") == b.grants
    for sent in (
        b"Bearer", b"Bearer ", b"Bearer secret", b"Bearer secret-a2", b"Bearer secret-a secret-b",
        b"Bearer secret-a,Bearer secret-b", b"Bearer " + digest(b"secret-a").hex().encode(), b"Bearer a", b"Bearer =",
        b"Bearer \xff",
    ):  # fmt: skip
        with pytest.raises(InvalidToken):
            here.authenticate(sent)
    for sent in (None, b"", b"Basic c2VjcmV0LWE=", b"secret-a", b"Bearersecret-a", b"Bearer\tsecret-a"):
        with pytest.raises(Unauthorized) as refused:
            here.authenticate(sent)
        assert type(refused.value) is Unauthorized


def test_a_file_without_tokens_lets_nobody_in(board: Clock) -> None:
    publish(board, [])
    here = Tokens(board)
    with pytest.raises(Unauthorized):
        here.authenticate(None)
    with pytest.raises(InvalidToken):
        here.authenticate(b"Bearer x")


def test_processes_follow(board: Clock) -> None:
    a, b = token("a", b"secret-a", read=(b"",)), token("b", b"secret-b")
    publish(board, [a, b])
    here = Tokens(board)
    grants = here.authenticate(b"Bearer secret-a")
    assert not here.refresh()
    less = token("a", b"secret-a", read=(b"x/",))
    publish(board, [less])
    assert here.authenticate(b"Bearer secret-b") == b.grants  # until it looks
    assert here.refresh() and not here.refresh()
    assert here.authenticate(b"Bearer secret-a") == here.current(grants) == less.grants
    assert here.current(b.grants) is here.current(EVERYTHING) is None
    with pytest.raises(InvalidToken):
        here.authenticate(b"Bearer secret-b")
    publish(board, [token("a", b"another", read=(b"",))])
    assert here.refresh()
    assert here.current(grants) is None, "another token of the same name is another token"


def test_the_file_is_for_this_user_alone(board: Clock, tmp_path: Path) -> None:
    publish(board, [token("a", b"secret-a")])
    path = tmp_path / tokens.FILE
    assert path.stat().st_mode & 0o777 == 0o600
    assert b"secret-a" not in path.read_bytes()


def test_while_the_file_cannot_be_read_the_old_tokens_hold(board: Clock, tmp_path: Path) -> None:
    a, b = token("a", b"secret-a"), token("b", b"secret-b")
    publish(board, [a])
    here = Tokens(board)
    publish(board, [b])
    path = tmp_path / tokens.FILE
    for broken in (lambda: path.unlink(), lambda: path.write_bytes(b"\xc1")):
        broken()
        assert not here.refresh()
        assert here.authenticate(b"Bearer secret-a") == a.grants
        with pytest.raises(TokensError):
            Tokens(board)
    publish(board, [b])
    assert here.refresh()
    assert here.authenticate(b"Bearer secret-b") == b.grants


# Tickets


def test_a_ticket_is_good_once(board: Clock, tmp_path: Path) -> None:
    a = token("a", b"secret-a", feed=(b"x/",))
    publish(board, [a])
    issuer, gateway = Tickets(board, Tokens(board)), Tickets(board, Tokens(board))
    text, expires_ms = issuer.issue(a.grants, "websocket")
    assert expires_ms == board.now + LIFETIME_S * 1000
    (file,) = (tmp_path / tickets.DIRECTORY).iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert text not in file.name and text.encode() not in file.read_bytes()
    assert gateway.redeem(text.encode(), "websocket") == a.grants
    with pytest.raises(BadTicket, match="unknown, or was used"):
        gateway.redeem(text.encode(), "websocket")
    assert not list(file.parent.iterdir())


@pytest.mark.parametrize("ticket", [b"", b"kvt_x", b"../board", b"\0", b"\xff" * 300])
def test_what_is_no_ticket(board: Clock, ticket: bytes) -> None:
    with pytest.raises(BadTicket):
        Tickets(board, Tokens(board)).redeem(ticket, "sse")


def test_a_ticket_ends(board: Clock, tmp_path: Path) -> None:
    a = Tickets(board, Tokens(board))
    early, _ = a.issue(EVERYTHING, "sse")
    unused, _ = a.issue(EVERYTHING, "sse")
    board.now += LIFETIME_S * 1000 - 1
    late, _ = a.issue(EVERYTHING, "sse")
    sweep(board)
    assert len(list((tmp_path / tickets.DIRECTORY).iterdir())) == 3
    board.now += 1
    with pytest.raises(BadTicket, match="older"):
        a.redeem(early.encode(), "sse")
    sweep(board)
    assert len(list((tmp_path / tickets.DIRECTORY).iterdir())) == 1
    assert a.redeem(late.encode(), "sse") is EVERYTHING
    with pytest.raises(BadTicket):
        a.redeem(unused.encode(), "sse")


def test_a_ticket_is_for_what_it_was_asked_for(board: Clock) -> None:
    a = Tickets(board, Tokens(board))
    text, _ = a.issue(EVERYTHING, "sse")
    with pytest.raises(BadTicket, match="for sse, not for websocket"):
        a.redeem(text.encode(), "websocket")


def test_a_ticket_goes_with_its_token(board: Clock) -> None:
    a = token("a", b"secret-a", feed=(b"",))
    publish(board, [a])
    here = Tokens(board)
    issued = [Tickets(board, here).issue(a.grants, "sse")[0].encode() for _ in range(2)]
    less = token("a", b"secret-a", feed=(b"x/",))
    publish(board, [less])
    assert here.refresh()
    assert Tickets(board, here).redeem(issued[0], "sse") == less.grants
    publish(board, [])
    assert here.refresh()
    with pytest.raises(BadTicket, match="revoked"):
        Tickets(board, here).redeem(issued[1], "sse")


def test_who_gets_no_ticket(board: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tickets, "MOST", 2)
    a = Tickets(board, Tokens(board))
    with pytest.raises(Forbidden, match="feed"):
        a.issue(Grants("n", "i", read=(b"",)), "sse")
    for _ in range(2):
        a.issue(EVERYTHING, "sse")
    with pytest.raises(Overloaded):
        a.issue(EVERYTHING, "sse")
    board.now += LIFETIME_S * 1000
    a.issue(EVERYTHING, "sse")
    assert len(list((tmp_path / tickets.DIRECTORY).iterdir())) == 3
