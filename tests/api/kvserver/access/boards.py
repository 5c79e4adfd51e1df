"""A board whose time is the test's, and tokens."""

from __future__ import annotations

from pathlib import Path

from kvserver.access.grants import Grants
from kvserver.access.tokens import Token, hash_token
from shards.host.board import Board
from shards.wire.clock import Now
from tests.facts import make_facts


class Clock(Board):
    """A board whose time is the test's. Its wall clock is an hour behind."""

    time_ms = 10_000_000

    def now(self) -> Now:
        return Now(self.time_ms - 3_600_000, self.time_ms)

    def steady_ms(self) -> int:
        return self.time_ms


def make_board(directory: Path) -> Clock:
    board = Clock.create(
        directory / "board",
        make_facts(str(directory)),
    )
    assert isinstance(board, Clock)
    return board


def token(name: str, secret: bytes, **grants: tuple[bytes, ...]) -> Token:
    return Token(hash_token(secret), Grants(name, hash_token(secret).hex()[:16], **grants))
