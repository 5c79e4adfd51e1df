"""The sending side of a connection, and how it is seen whether the client takes anything."""

from __future__ import annotations

import contextlib
import time
from typing import Final

from gevent import socket as gsocket  # type: ignore[import-untyped]

from kvserver.gateway.transport.limits import ConnectionLimits
from kvserver.gateway.transport.scheduling import breathe
from kvserver.gateway.transport.send_budget import BudgetCharge, SendBudget
from kvserver.http.send_queue import count_unsent

_UNSENT_BYTES: Final = 128 << 10  # that the kernel takes for a client, which it doubles; left alone it takes 4 MiB
SLOW_BYTES_S: Final = 16 << 10
"""A client that takes fewer bytes a second while the budget is high is slow, and may be dropped ..."""
SLOW_S: Final = 5.0
"""... which is measured over so many seconds; ..."""
STILL_S: Final = 2.0
"""... so is one that takes nothing at all for so long."""


class Outlet:
    """The sending side of a connection: one greenlet writes, and the monitor checks whether the client reads.

    Attributes:
        heard_at: when the client last gave a sign of life, by the monotonic clock.
        charge: what the client has not taken of what is being written.
        is_slow: whether it takes next to nothing of that, as of the last `is_lost`.
    """

    def __init__(self, connection: gsocket.socket, limits: ConnectionLimits, budget: SendBudget) -> None:
        """Write to `connection`. Sets TCP_NODELAY and a small send buffer, unless it is a Unix socket."""
        self.heard_at = time.monotonic()
        self.charge, self.is_slow, self._lags = BudgetCharge(budget), False, False
        self._written = 0
        self._sampled: tuple[float, int] | None = None  # when something was being written, and how much was taken then
        self._socket, self._limits = connection, limits
        self._open = True
        self._unsent: memoryview | None = None  # what is being written
        self._whole = b""  # of which it is a view
        self._is_part = False  # it is a view of something larger, which other clients share
        self._stalled_at: float | None = None  # since when a write has made no progress
        self._queued_before = 0
        if connection.family != gsocket.AF_UNIX:
            connection.setsockopt(gsocket.IPPROTO_TCP, gsocket.TCP_NODELAY, 1)
            connection.setsockopt(gsocket.SOL_SOCKET, gsocket.SO_SNDBUF, _UNSENT_BYTES)

    def load(self, data: bytes | memoryview) -> None:
        """Take over `data` for `write_loaded`: the caller need not keep it."""
        self._whole = data if isinstance(data, bytes) else b""
        self._unsent = memoryview(data)
        self._is_part = isinstance(data, memoryview)

    @property
    def budget(self) -> SendBudget:
        """The budget that is charged with what the client has not taken."""
        return self.charge.budget

    @property
    def slow_bytes(self) -> int:
        """Bytes that the client has not taken, if it takes next to nothing of them; else 0."""
        return self.charge.size if self.is_slow else 0

    @property
    def is_loaded(self) -> bool:
        """Whether there is something to write."""
        return self._unsent is not None

    def write_loaded(self) -> None:
        """Write what was loaded, all of it unless `shut_down` is called in the meantime. Blocks. Raises `OSError`."""
        self._stalled_at = time.monotonic()
        try:
            while self._unsent and self._open:
                sent = self._send_some()
                self._unsent = self._unsent[sent:]
                self._written += sent
                self._stalled_at = time.monotonic()
                if self._unsent:
                    self._charge_unsent()
                breathe()
        finally:
            self.discard_unsent()

    def discard_unsent(self) -> None:
        """Release what was loaded and not written, and give its charge back."""
        self._unsent, self._whole, self._is_part, self._stalled_at = None, b"", False, None
        if self.charge.size:
            self.charge.set_bytes(0)

    def _send_some(self) -> int:
        # Most clients take all at once: try without waiting first, which spares a switch to the hub and a charge.
        with contextlib.suppress(BlockingIOError):
            return int(self._socket.send(self._unsent, 0, 0.0))
        self._charge_unsent()
        return int(self._socket.send(self._unsent))

    def _charge_unsent(self) -> None:
        """Charge what the client does not take at once."""
        if self._is_part:  # what waits for one client must not pin what it is a part of
            self._unsent, self._is_part = memoryview(bytes(self._unsent or b"")), False
            self.charge.set_bytes(len(self._unsent))
        elif not self.charge.size:
            self.charge.set_shared(self._whole)

    def end_writing(self) -> None:
        """Send the end of the stream; the client may still send. Raises `OSError`."""
        self._socket.shutdown(gsocket.SHUT_WR)

    def shut_down(self) -> None:
        """End the connection at once, both ways. Does not block."""
        self._open = False
        with contextlib.suppress(OSError):  # the client was faster
            self._socket.shutdown(gsocket.SHUT_RDWR)

    def is_lost(self, now: float, silence_s: float | None = None) -> bool:
        """Whether the client takes nothing of what is being written; if nothing is, whether it was silent too long.

        Must be called regularly: it compares the kernel's send queue with that of the call before. Updates `is_slow`.

        Args:
            now: by the monotonic clock.
            silence_s: how long the client may give no sign of life; None: as long as it likes.
        """
        if not self._open:
            return False
        queued = count_unsent(self._socket.fileno())
        if 0 < queued < self._queued_before:  # the kernel takes more only when much of what it has is gone
            self.heard_at = now
            if self._stalled_at is not None:
                self._stalled_at = now
        self._queued_before = queued
        self.is_slow = self._takes_little(now, self._written - queued)
        if self._stalled_at is None:
            return silence_s is not None and now - self.heard_at > silence_s
        return now - self._stalled_at > self._limits.stall_s

    def _takes_little(self, now: float, taken: int) -> bool:
        """Whether the client is slow. `taken`: bytes that its kernel has acknowledged, since the connection began."""
        if self._stalled_at is None:
            self._sampled, self._lags = None, False
            return False
        if self._sampled is None:
            self._sampled = now, taken
        since, before = self._sampled
        if now - since >= SLOW_S:
            self._lags = taken - before < SLOW_BYTES_S * (now - since)
            self._sampled = now, taken
        return self._lags or now - self._stalled_at >= STILL_S
