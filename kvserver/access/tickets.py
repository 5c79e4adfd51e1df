"""Tickets: what a browser sends instead of a token where it cannot set headers, for one WebSocket or SSE stream.

A ticket is good for `LIFETIME_S`, for one use, and only as long as the token stands that it was issued to. It is a
file in `tickets` in the run directory, named by the ticket's SHA-256, with the token's id, the kind and the end; who
unlinks it has redeemed it, whichever process that is.

EventSource comes back to the same URL, so to the same ticket. An SSE stream that a ticket opened has a random word, by
which its ids end: who knows both, ticket and word, goes on with it. That, too, is a file, named by both.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections import deque
from pathlib import Path
from typing import Final, Literal

import msgspec

from kvserver.access.grants import Grants
from kvserver.access.tokens import Tokens
from shards.board import Board
from shards.causes import refusal
from shards.errors import BadTicket, Forbidden, Overloaded

Kind = Literal["sse", "websocket"]

DIRECTORY: Final = "tickets"
LIFETIME_S: Final = 30
RESUME_S: Final = 600
"""How long after a break an SSE stream may be taken up again with the ticket that opened it."""
MOST: Final = 16_384
"""Tickets of one process that have not ended yet: each is a file in memory."""


class _Ticket(msgspec.Struct, frozen=True):
    grants: Grants
    kind: Kind
    ends_ms: int  # steady time


_decode = msgspec.msgpack.Decoder(_Ticket).decode


class Tickets:
    """Issues and redeems tickets in one process. They last by the steady clock, which nobody can set."""

    def __init__(self, board: Board, tokens: Tokens) -> None:
        self._board, self._tokens = board, tokens
        self._directory = board.path.with_name(DIRECTORY)
        self._issued: deque[int] = deque()  # when they end

    def issue(self, grants: Grants, kind: Kind) -> tuple[str, int]:
        """A new ticket for the bearer of a token, and when it ends, in Unix milliseconds.

        Raises `Forbidden` without a grant of `feed`, `Overloaded` if too many are out, `InsufficientStorage`.
        """
        if not grants.feed:
            raise Forbidden("the token grants feed on no key")
        now = self._board.now()
        while self._issued and self._issued[0] <= now.steady_ms:
            self._issued.popleft()
        if len(self._issued) >= MOST:
            raise Overloaded(f"{MOST} tickets are out")
        text, ends_ms = "kvt_" + secrets.token_urlsafe(32), now.steady_ms + LIFETIME_S * 1000
        try:
            fd = os.open(self._path(text.encode()), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(msgspec.msgpack.encode(_Ticket(grants, kind, ends_ms)))
        except OSError as error:
            raise refusal(error, "the ticket cannot be written") from None
        self._issued.append(ends_ms)
        return text, ends_ms - now.behind_ms

    def redeem(self, ticket: bytes, kind: Kind) -> Grants:
        """What the bearer of `ticket` may, by the token it was issued to and as that stands now. It is used up.

        Raises `BadTicket`.
        """
        path = self._path(ticket)
        try:
            found = _decode(path.read_bytes())
            path.unlink()  # of several at once, one succeeds
        except (OSError, msgspec.MsgspecError):
            raise BadTicket("it is unknown, or was used before") from None
        grants = self._tokens.current(found.grants)
        if found.ends_ms <= self._board.steady_ms():
            raise BadTicket(f"it is older than {LIFETIME_S} seconds")
        if found.kind != kind:
            raise BadTicket(f"it is for {found.kind}, not for {kind}")
        if grants is None:
            raise BadTicket("the token it was issued to was revoked")
        return grants

    def bind(self, ticket: bytes, grants: Grants) -> bytes:
        """A word by which the stream that `ticket` opened may be taken up again: with both, `resume` succeeds.

        Raises `InsufficientStorage`, `KVError` for other errors of the system.
        """
        word = secrets.token_urlsafe(12).encode()
        self.keep(ticket, word, grants)
        return word

    def keep(self, ticket: bytes, word: bytes, grants: Grants) -> None:
        """Let the stream be taken up again for `RESUME_S` from now.

        Raises `InsufficientStorage`, `KVError` for other errors of the system.
        """
        path = self._path(ticket + b"~" + word)
        temporary = path.with_suffix(".new")
        ends_ms = self._board.steady_ms() + RESUME_S * 1000
        try:
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(msgspec.msgpack.encode(_Ticket(grants, "sse", ends_ms)))
            temporary.rename(path)
        except OSError as error:
            raise refusal(error, "the ticket cannot be written") from None

    def resume(self, ticket: bytes, word: bytes) -> Grants:
        """What the bearer of a used ticket may, who knows the word of its stream. Raises `BadTicket`."""
        try:
            found = _decode(self._path(ticket + b"~" + word).read_bytes())
        except (OSError, msgspec.MsgspecError):
            raise BadTicket("it is unknown, or another stream used it") from None
        grants = self._tokens.current(found.grants)
        if grants is None or found.ends_ms <= self._board.steady_ms():
            raise BadTicket("its stream ended too long ago, or the token it was issued to was revoked")
        return grants

    def _path(self, ticket: bytes) -> Path:
        return self._directory / hashlib.sha256(ticket).hexdigest()


def sweep(board: Board) -> None:
    """Remove tickets that have ended unused. For the supervisor, now and then."""
    now_ms = board.steady_ms()
    for path in board.path.with_name(DIRECTORY).glob("*"):
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            if _decode(path.read_bytes()).ends_ms <= now_ms:
                path.unlink()
