"""A board whose time is the test's, and tokens."""

from __future__ import annotations

from pathlib import Path

from kvserver.access.grants import Grants
from kvserver.access.tokens import Token, hash_token
from shards.host.board import Board, Facts
from shards.wire.clock import Now


class Clock(Board):
    """A board whose time is the test's. Its wall clock is an hour behind."""

    time_ms = 10_000_000

    def now(self) -> Now:
        return Now(self.time_ms - 3_600_000, self.time_ms)

    def steady_ms(self) -> int:
        return self.time_ms


def make_board(directory: Path) -> Clock:
    where = str(directory)
    board = Clock.create(
        directory / "board",
        Facts(
            version="0",
            store="s",
            epoch="e",
            boot_id="b",
            secret=1,
            shards=1,
            sync="os",
            in_memory=False,
            data_dir=where,
            lock_dir=where,
            log_dir=where,
            map_dir=where,
            max_value=1,
            clock_offset_ms=0,
            supervisor_pid=1,
            started_ms=0,
        ),
    )
    assert isinstance(board, Clock)
    return board


def token(name: str, secret: bytes, **grants: tuple[bytes, ...]) -> Token:
    return Token(hash_token(secret), Grants(name, hash_token(secret).hex()[:16], **grants))
