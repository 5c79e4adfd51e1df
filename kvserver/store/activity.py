"""Reports to the gateways of what changes nothing but is shown on `/wal`: reads, lists, missed deletes, heartbeats.

Sent by PUB to every gateway, only while the board says that a client listens; best effort. The lines of one turn of the
sender's loop travel in one message.

ZeroMQ connects and subscribes in its own time, and drops what is published before. So a gateway calls the roll before
its first client listens: who answers is heard.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import zmq

from shards.host.board import Board, GatewayRow
from shards.wire.protocol import Activity, ActivityKind, encode_activity, encode_presence

_MOST_LINES: Final = 10_000  # of one turn


class ActivityFeed:
    """One per process, used from its event loop's thread. No method blocks."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        board: Board,
        run_dir: Path,
        soon: Callable[[], object],
        but: int | None = None,
    ) -> None:
        """`soon`: called when there are lines to flush, has to call `flush` at the end of this turn.

        `but`: row of the gateway that is this process, which is sent nothing.
        """
        self._board, self._run_dir, self._soon, self._but = board, run_dir, soon, but
        self._socket = context.socket(zmq.PUB)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._connected: dict[int, int] = {}  # row: the roll call of that gateway that was answered last
        self._listening_at: list[int] = []  # words of the board
        self._lines: list[Activity] = []

    @property
    def has_listeners(self) -> bool:
        """Whether a client of any gateway listens to activity."""
        words = self._board.words  # every read asks: a generator would take longer than the loop
        for at in self._listening_at:  # noqa: SIM110
            if words[at]:
                return True
        return False

    def refresh(self) -> None:
        """Find the gateways on the board, connect to new ones, and answer their roll calls."""
        rows = [(index, row) for index, row in enumerate(self._board.gateways) if row.pid and index != self._but]
        self._listening_at = [row.base + GatewayRow.listening.index for _, row in rows]
        is_called = False
        for index, row in rows:
            if index not in self._connected:
                self._socket.connect(f"ipc://{self._run_dir}/gateway-{index}.activity")
                self._connected[index] = 0
            roll_call = row.roll_call
            if self._connected[index] != roll_call:
                self._connected[index], is_called = roll_call, True
        if is_called:
            self._socket.send(encode_presence(os.getpid()), zmq.DONTWAIT)

    def add(self, kind: ActivityKind, subject: bytes, end: int | None = None) -> None:
        """Add a line to this turn's message, if a client listens. `end`: its place in the history, else the end."""
        if not self.has_listeners or len(self._lines) >= _MOST_LINES:
            return
        if not self._lines:
            self._soon()
        end = self._board.last_revision() if end is None else end
        self._lines.append(Activity(end, kind, subject, self._board.now_ms()))

    def flush(self) -> None:
        """Send the lines that were added."""
        lines, self._lines = self._lines, []
        if lines:
            self._socket.send(encode_activity(lines), zmq.DONTWAIT)

    def close(self) -> None:
        """Close the socket; lines that were not sent are dropped."""
        self._socket.close(0)
