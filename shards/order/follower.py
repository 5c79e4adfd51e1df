"""Puts messages that come by several ways, twice or not at all, into their sequence, and says what is missing. Pure."""

from __future__ import annotations

import zlib
from typing import Final

from shards.order.order import WHAT_HELPS, Message, OrderLost

MOST_KEPT: Final = 1024
"""Messages behind a gap that are kept; others are fetched once more."""
MOST_KEPT_BYTES: Final = 32 << 20
MOST_REMEMBERED: Final = 4096
"""Messages of which it is remembered what they were: an order that says otherwise later is another one."""


class Follower:
    """The place in an order that has been reached.

    Args:
        after: the sequence of the last message that is there already.

    Attributes:
        last: the sequence of the last message without a gap.
        target: the highest sequence that is known to exist.
    """

    def __init__(self, after: int) -> None:
        self.last = self.target = after
        self._kept: dict[int, Message] = {}
        self._kept_bytes = 0
        self._remembered: dict[int, tuple[int, int]] = {}  # stamp and checksum, by sequence

    @property
    def is_behind(self) -> bool:
        """Whether messages exist that have not come."""
        return self.target > self.last

    def see(self, sequence: int) -> None:
        """Note that message `sequence` exists."""
        self.target = max(self.target, sequence)

    def add(self, message: Message) -> list[Message]:
        """Take a message that has come; return those that are now next, in their sequence.

        Raises `OrderLost` if there was another one in its place before.
        """
        self.see(message.sequence)
        remembered = self._remembered.get(message.sequence)
        if remembered and remembered != _mark(message):
            raise OrderLost(
                f"message {message.sequence} of the order is another one than before: the engine has lost its end and "
                f"gone on; {WHAT_HELPS}"
            )
        if message.sequence != self.last + 1:
            self._keep(message)
            return []
        ready = [message]
        while self._kept and (following := self._kept.pop(message.sequence + len(ready), None)) is not None:
            self._kept_bytes -= len(following.payload)
            ready.append(following)
        self.last += len(ready)
        for taken in ready:
            self._remember(taken)
        return ready

    def _remember(self, message: Message) -> None:
        self._remembered[message.sequence] = _mark(message)
        if len(self._remembered) > MOST_REMEMBERED:
            del self._remembered[next(iter(self._remembered))]

    def _keep(self, message: Message) -> None:
        if message.sequence <= self.last or message.sequence in self._kept:
            return
        size = len(message.payload)
        if len(self._kept) < MOST_KEPT and self._kept_bytes + size <= MOST_KEPT_BYTES:
            self._kept[message.sequence] = message
            self._kept_bytes += size

    def next_missing(self) -> tuple[int, int] | None:
        """Return the first and the last sequence of the first gap; None: nothing is missing."""
        if not self.is_behind:
            return None
        return self.last + 1, min(self._kept, default=self.target + 1) - 1


def _mark(message: Message) -> tuple[int, int]:
    return message.time_ms, zlib.crc32(message.payload)
