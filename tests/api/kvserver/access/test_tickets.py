"""Tickets over a board and files: issued once, redeemed once, resumed, counted, swept."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvserver.access import tickets
from kvserver.access.grants import EVERYTHING, Grants
from kvserver.access.tickets import LIFETIME_S, MOST, RESUME_S, Tickets, max_tickets, sweep_tickets
from kvserver.access.tokens import Tokens, publish_tokens
from shards.wire.errors import BadTicket, Forbidden, Overloaded
from tests.api.kvserver.access.boards import Clock, make_board, token


def files(tmp_path: Path) -> list[Path]:
    """Those of all tickets."""
    return [path for path in (tmp_path / tickets.DIRECTORY).rglob("*") if path.is_file()]


A = token("a", b"secret-a", feed=(b"x/",))


B = token("b", b"secret-b", feed=(b"",))


@pytest.fixture
def office(board: Clock) -> Tickets:
    """Of a server with the tokens A and B."""
    publish_tokens(board, [A, B])
    return Tickets(board, Tokens(board))


def test_a_ticket_is_good_once(board: Clock, office: Tickets, tmp_path: Path) -> None:
    gateway = Tickets(board, Tokens(board))
    text, expires_ms = office.issue(A.grants, "websocket")
    assert expires_ms == board.now().wall_ms + LIFETIME_S * 1000
    (file,) = files(tmp_path)
    assert file.stat().st_mode & 0o777 == 0o600
    assert text not in str(file) and text.encode() not in file.read_bytes()
    for known in (A.grants.id, A.sha256.hex()[:8], "secret"):
        assert known not in text
    assert gateway.redeem(text.encode(), "websocket") == A.grants
    with pytest.raises(BadTicket, match="unknown, or was used"):
        gateway.redeem(text.encode(), "websocket")
    assert not files(tmp_path)


@pytest.mark.parametrize(
    "ticket",
    [
        b"",
        b"kvt_x",
        b"../board",
        b"\0",
        b"\xff" * 300,
        b"kvt_" + b"0" * 59,
        b"kvt_" + b"0" * 16 + b"/" * 43,
        b"kvt_" + b"." * 59,
        b"kvt_" + b"0" * 60,
    ],
)
def test_what_is_no_ticket(office: Tickets, ticket: bytes) -> None:
    with pytest.raises(BadTicket):
        office.redeem(ticket, "sse")
    with pytest.raises(BadTicket):
        office.resume_stream(ticket, office.make_resume_token(ticket) if len(ticket) != 63 else b"")


def test_a_ticket_ends(board: Clock, office: Tickets, tmp_path: Path) -> None:
    early, _ = office.issue(A.grants, "sse")
    unused, _ = office.issue(A.grants, "sse")
    board.time_ms += LIFETIME_S * 1000 - 1
    late, _ = office.issue(B.grants, "sse")
    sweep_tickets(board)
    assert len(files(tmp_path)) == 3
    board.time_ms += 1
    with pytest.raises(BadTicket, match="older"):
        office.redeem(early.encode(), "sse")
    sweep_tickets(board)
    assert len(files(tmp_path)) == 1
    assert office.redeem(late.encode(), "sse") == B.grants
    with pytest.raises(BadTicket):
        office.redeem(unused.encode(), "sse")
    sweep_tickets(board)
    assert not list((tmp_path / tickets.DIRECTORY).iterdir()), "nor an empty directory for each token there ever was"
    office.issue(A.grants, "sse")


def test_a_ticket_is_for_what_it_was_asked_for(office: Tickets) -> None:
    text, _ = office.issue(A.grants, "sse")
    with pytest.raises(BadTicket, match="for sse, not for websocket"):
        office.redeem(text.encode(), "websocket")


def test_a_ticket_goes_with_its_token(board: Clock) -> None:
    a = token("a", b"secret-a", feed=(b"",))
    publish_tokens(board, [a])
    here = Tokens(board)
    issued = [Tickets(board, here).issue(a.grants, "sse")[0].encode() for _ in range(2)]
    publish_tokens(board, [A])
    assert here.refresh()
    assert Tickets(board, here).redeem(issued[0], "sse") == A.grants
    publish_tokens(board, [])
    assert here.refresh()
    with pytest.raises(BadTicket, match="revoked"):
        Tickets(board, here).redeem(issued[1], "sse")


def test_no_token_takes_the_share_of_another(board: Clock, office: Tickets, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted over all processes; what was used, or has ended, counts no more."""
    monkeypatch.setattr(tickets, "SHARE", range(1, 4))
    workers = [office, *(Tickets(board, Tokens(board)) for _ in range(2))]
    issued = [worker.issue(A.grants, "sse")[0] for worker in workers]
    for worker in workers:
        with pytest.raises(Overloaded, match="3 tickets of this token"):
            worker.issue(A.grants, "websocket")
    for worker in workers:
        worker.issue(B.grants, "sse")
    workers[1].redeem(issued[0].encode(), "sse")
    workers[2].issue(A.grants, "sse")
    with pytest.raises(Overloaded):
        workers[0].issue(A.grants, "sse")
    board.time_ms += LIFETIME_S * 1000
    for worker in workers:
        worker.issue(A.grants, "sse")


@given(st.integers(0, 1 << 20))
def test_all_shares_together_are_bounded(count: int) -> None:
    share = max_tickets(count)
    assert 16 <= share <= 1024
    assert share == 16 or share * count <= MOST
    assert max_tickets(count + 1) <= share


def test_who_gets_no_ticket(office: Tickets) -> None:
    with pytest.raises(Forbidden, match="feed"):
        office.issue(Grants("n", "i", read=(b"",)), "sse")


def test_without_tokens_tickets_leave_nothing(board: Clock, tmp_path: Path) -> None:
    here = Tickets(board, Tokens(board))
    for _ in range(3 * 1024):
        here.issue(EVERYTHING, "sse")
    assert not files(tmp_path)


def test_a_directory_that_was_cleaned_away_is_made_again(office: Tickets, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / tickets.DIRECTORY)
    text, _ = office.issue(A.grants, "sse")
    assert office.redeem(text.encode(), "sse") == A.grants


def test_a_stream_is_taken_up_again_by_whom_its_words_were_sent(board: Clock, office: Tickets, tmp_path: Path) -> None:
    """At any gateway, as long as the token stands; and no file is kept of it."""
    ticket = office.issue(A.grants, "sse")[0].encode()
    office.redeem(ticket, "sse")
    word = office.make_resume_token(ticket)
    gateway = Tickets(board, Tokens(board))
    board.time_ms += (RESUME_S - 1) * 1000
    assert gateway.resume_stream(ticket, word) == A.grants
    later = gateway.make_resume_token(ticket)
    board.time_ms += 1000
    with pytest.raises(BadTicket, match="too long ago"):
        gateway.resume_stream(ticket, word)
    assert gateway.resume_stream(ticket, later) == A.grants
    assert not files(tmp_path)
    publish_tokens(board, [B])
    with pytest.raises(BadTicket, match="revoked"):
        Tickets(board, Tokens(board)).resume_stream(ticket, later)


def test_a_word_is_of_one_ticket_and_of_one_run(board: Clock, office: Tickets, tmp_path: Path) -> None:
    ticket, other = (office.issue(A.grants, "sse")[0].encode() for _ in range(2))
    word = office.make_resume_token(ticket)
    forged = (int.from_bytes(word[:1], "big") ^ 1).to_bytes(1, "big") + word[1:]
    for wrong in (
        b"",
        b"~",
        b"nonsense",
        word[:-4],
        word + b"AAAA",
        forged,
        office.make_resume_token(other),
        b"\xff",
        b"=" * 9,
    ):
        with pytest.raises(BadTicket, match="unknown"):
            office.resume_stream(ticket, wrong)
    (tmp_path / "next").mkdir()
    following = make_board(tmp_path / "next")
    publish_tokens(following, [A, B])
    with pytest.raises(BadTicket, match="unknown"):
        Tickets(following, Tokens(following)).resume_stream(ticket, word)
    following.close()


def file_there(path: Path, elsewhere: Path) -> None:
    path.write_text("in the way")


def dangling_link(path: Path, elsewhere: Path) -> None:
    path.symlink_to("nowhere")


def link_to_a_directory(path: Path, elsewhere: Path) -> None:
    path.symlink_to(elsewhere)


@pytest.mark.parametrize("level", ["all tickets", "of a token"])
@pytest.mark.parametrize("plant", [file_there, dangling_link, link_to_a_directory])
def test_what_stands_in_the_place_of_a_directory_is_refused_and_not_followed(
    board: Clock, office: Tickets, tmp_path: Path, plant: Callable[[Path, Path], None], level: str
) -> None:
    elsewhere, directory = tmp_path / "elsewhere", tmp_path / tickets.DIRECTORY
    ticket = office.issue(A.grants, "sse")[0].encode()
    (kept,) = files(tmp_path)
    where = directory if level == "all tickets" else kept.parent
    where.rename(elsewhere)
    os.utime(next(path for path in elsewhere.rglob("*") if path.is_file()), (1, 1))
    before = sorted(elsewhere.rglob("*"))
    plant(where, elsewhere)
    with pytest.raises(Overloaded, match=r"tickets\S* in the run directory is not a directory: remove it"):
        office.issue(A.grants, "sse")
    with pytest.raises((BadTicket, Overloaded)):
        office.redeem(ticket, "sse")
    with contextlib.suppress(OSError):
        sweep_tickets(board)
    assert sorted(elsewhere.rglob("*")) == before
    where.unlink()
    assert office.redeem(office.issue(A.grants, "sse")[0].encode(), "sse") == A.grants


def test_a_link_in_the_place_of_a_ticket_is_not_followed(office: Tickets, tmp_path: Path) -> None:
    ticket = office.issue(A.grants, "sse")[0].encode()
    (path,) = files(tmp_path)
    path.rename(tmp_path / "copy")
    path.symlink_to(tmp_path / "copy")
    with pytest.raises((BadTicket, Overloaded)):
        office.redeem(ticket, "sse")
    assert (tmp_path / "copy").exists()


def test_a_sweep_takes_nothing_but_tickets(board: Clock, tmp_path: Path) -> None:
    for name in ("letters", "0" * 16):
        (tmp_path / tickets.DIRECTORY / name).mkdir()
        (tmp_path / tickets.DIRECTORY / name / "diary").touch()
        os.utime(tmp_path / tickets.DIRECTORY / name / "diary", (1, 1))
    sweep_tickets(board)
    assert len(list((tmp_path / tickets.DIRECTORY).rglob("diary"))) == 2


def test_a_file_system_that_cannot_be_written_is_told_as_that(office: Tickets, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def read_only(path: object, flags: int, *more: Any, **named: Any) -> int:
        if flags & os.O_CREAT:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return real(path, flags, *more, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", read_only)
    with pytest.raises(Overloaded, match="the ticket cannot be written: Read-only file system"):
        office.issue(A.grants, "sse")
