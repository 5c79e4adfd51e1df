"""The way of one watch along the feed: what it reads, when its connection is dead, when and how it comes back. Pure.

`Follow.next_envelope` is a script: it yields steps, which a shell carries out, and gets their results. It takes the
clock and chance from outside.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Final

from kvserver.client.changes import Connected, Envelope, Reset, State, Synced, Waiting
from kvserver.client.core.feed.messages import Message, changes_in, error_in, parse_message
from kvserver.client.core.feed.wish import SILENCE_S, Wish
from kvserver.client.errors import ForeignAnswer, Gap, KVError, NotAnswered, Refused, Unauthorized

_AT_ONCE_S: Final = 0.25
_FIRST_S: Final = 0.1
_LONGEST_S: Final = 10.0
_HEALTHY_S: Final = 10.0
"""A connection that lasted so long ends the doubling of delays."""
_LATER: Final = (408, 429)
"""Statuses below 500 after which it is worth while to come back."""


@dataclass(frozen=True)
class Connect:
    """Send GET `target` for lines of JSON. Result: None if a stream was opened, else the error."""

    target: str


@dataclass(frozen=True)
class Read:
    """Wait for bytes of the stream, for at most `seconds`. Result: the bytes, or the error; empty at its end."""

    seconds: float


@dataclass(frozen=True)
class Disconnect:
    """Close the stream. `leave`: connect to another server the next time, if there is one."""

    leave: bool = False


@dataclass(frozen=True)
class Pause:
    """Wait."""

    seconds: float


@dataclass(frozen=True)
class RenewToken:
    """Ask for the token again. Result: whether it comes from a function, that can be asked."""


@dataclass(frozen=True)
class Tell:
    """Tell the user a state."""

    state: State


FollowStep = Connect | Read | Disconnect | Pause | RenewToken | Tell
FollowScript = Generator[FollowStep, Any, "Envelope | None"]


class LineBuffer:
    """Bytes in, whole lines out. What is not a whole line is lost with the connection."""

    def __init__(self) -> None:
        self._lines: deque[bytes] = deque()
        self._rest: list[bytes] = []

    def add(self, data: bytes) -> bool:
        """Add bytes; return whether a line ended."""
        *lines, rest = data.split(b"\n")
        if lines:
            lines[0] = b"".join((*self._rest, lines[0]))
            self._rest.clear()
            self._lines += lines
        if rest:
            self._rest.append(rest)
        return bool(lines)

    def take(self) -> bytes | None:
        """Remove and return the first line; None: there is none."""
        return self._lines.popleft() if self._lines else None

    def drop(self) -> None:
        """Forget everything."""
        self._lines.clear()
        self._rest.clear()

    def drop_half_line(self) -> None:
        """Forget the line that has not ended."""
        self._rest.clear()


class Follow:
    """One watch.

    Attributes:
        cursor: after the last envelope that was handed out; the next connection continues there. None at first.
        is_connected: whether there is a connection that seems to be alive.
        has_heard: whether a message has come.
        heard_at: when the last message came, by the clock; at the beginning, now.
    """

    def __init__(
        self,
        wish: Wish,
        clock: Callable[[], float],
        chance: Callable[[], float],
        *,
        since: str | None = None,
        below: str = "",
        on_gap: str = "raise",
        patience: float | None = None,
        first_patience: float | None = None,
        silence: float = SILENCE_S,
        servers: int = 1,
    ) -> None:
        """Begin after `since`, or as the wish says.

        Args:
            clock: returns seconds that only grow.
            chance: returns a random number from 0 to 1.
            below: prefix of all keys, which changes leave out.
            on_gap: `raise` or `continue`, where changes are missing and no snapshot follows.
            patience: seconds to wait for a message before giving up; None: for ever.
            first_patience: the same for the first message.
            silence: seconds without a byte after which a connection is dead.
            servers: how many there are, each of which is asked after the one before it failed.

        Raises `ValueError` for another `on_gap`.
        """
        if on_gap not in ("raise", "continue"):
            raise ValueError(f"on_gap is 'raise' or 'continue', not {on_gap!r}")
        self.cursor = since or None
        self.is_connected = False
        self._wish, self._clock, self._chance, self._below, self._on_gap = wish, clock, chance, below, on_gap
        self._patience, self._first_patience, self._silence = patience, first_patience, silence
        self._servers = servers
        self._buffer = LineBuffer()
        self._failures = 0
        self.has_heard = self._has_renewed = False
        self._has_begun = self.cursor is not None  # a snapshot, which `Reset` reports
        self._closing: Message | None = None
        self.heard_at = self._opened_at = self._patient_from = clock()

    def next_envelope(self, until: float | None = None) -> FollowScript:
        """Return the next envelope, over as many connections as it takes; None: it did not come until then.

        Raises the server's errors, `Gap`, and when patience is used up `NotAnswered`, or why it never connected.
        """
        try:
            return (yield from self._seek(until))
        except KVError:
            if self.is_connected:
                yield Disconnect()
                self._note_end()
            self._buffer.drop()
            raise

    def _seek(self, until: float | None) -> FollowScript:
        self._patient_from = self._clock()  # a program that reads slowly does not wait in the meantime
        while True:
            envelope = self._take()
            if envelope is not None:
                return envelope
            if self._closing is not None:
                yield from self._come_back_after(self._closing, until)
            elif until is not None and self._clock() >= until:
                return None
            elif not self.is_connected:
                yield from self._connect(until)
            else:
                yield from self._read(until)

    def connect(self) -> FollowScript:
        """Connect, if it is not connected. Raises the server's errors, or why it could not when patience is used up."""
        self._patient_from = self._clock()
        while not self.is_connected:
            yield from self._connect(None)
        return None

    # Connections

    def _connect(self, until: float | None) -> FollowScript:
        error = yield Connect(self._wish.target(self.cursor))
        if isinstance(error, Unauthorized) and not self._has_renewed:
            self._has_renewed = True
            if (yield RenewToken()):
                return None
        if error is not None:
            yield from self._come_back(error, until)
            return None
        self.is_connected, self._has_renewed, self._opened_at = True, False, self._clock()
        yield Tell(Connected(self.cursor))
        return None

    def _read(self, until: float | None) -> FollowScript:
        now = self._clock()
        left = min(self._silence, self._patience_left(now))
        is_cut = until is not None and until - now < left
        data = yield Read(max(0.0, until - now if is_cut and until is not None else left))
        if isinstance(data, bytes) and data:
            if self._buffer.add(data):
                self.heard_at, self.has_heard = self._clock(), True
            return None
        is_over = is_cut and until is not None and self._clock() >= until
        yield Disconnect(leave=not is_over)
        self._note_end()
        if is_over:
            return None  # the stream may have ended within a line, and cannot be read on
        error = data if isinstance(data, KVError) else NotAnswered("the connection to the feed ended")
        yield from self._come_back(error, until)
        return None

    def _note_end(self) -> None:
        self.is_connected = False
        self._buffer.drop_half_line()
        if self.heard_at - self._opened_at >= _HEALTHY_S:
            self._failures = 0

    # Coming back

    def _come_back(self, error: KVError, until: float | None) -> FollowScript:
        """Wait before the next connection. Raises if `error` is final or patience is used up."""
        if not is_passing(error):
            raise error
        now = self._clock()
        left = self._patience_left(now)
        if left <= 0:
            if not self.has_heard or isinstance(error, NotAnswered):
                raise error
            raise NotAnswered(f"no message of the feed for {self._patience:g} s: {error}") from error
        seconds = self._next_delay()
        if self._failures % self._servers == 0:  # all were asked
            seconds = max(seconds, error.retry_after)
        seconds = min(seconds, left)
        if until is not None:
            seconds = min(seconds, max(0.0, until - now))
        yield Tell(Waiting(error, seconds))
        yield Pause(seconds)
        return None

    def _come_back_after(self, closing: Message, until: float | None) -> FollowScript:
        """Leave a connection that the server is about to end, and wait as long as it asks for."""
        is_elsewhere = self._servers > 1 and closing.get("reason") != "revoked"
        yield Disconnect(leave=is_elsewhere)
        self._closing = None
        self._buffer.drop()
        self._note_end()
        reason, retry_ms = closing.get("reason"), closing.get("retry_ms")
        if reason == "revoked":
            yield RenewToken()
            self._has_renewed = True
            seconds = self._next_delay()
        else:
            self._failures = 0
            retry_s = retry_ms / 1000 if isinstance(retry_ms, int) and not is_elsewhere else _AT_ONCE_S
            seconds = retry_s * (1 + 0.5 * self._chance())
        now = self._clock()
        ends = [self._patience_left(now), *([] if until is None else [until - now])]
        seconds = max(0.0, min(seconds, *ends))
        yield Tell(Waiting(NotAnswered(f"the server ended the connection: {reason}"), seconds))
        yield Pause(seconds)
        return None

    def _next_delay(self) -> float:
        failures, self._failures = self._failures, self._failures + 1
        rounds = failures // self._servers
        if rounds == 0:
            return _AT_ONCE_S * self._chance()
        longest = min(_LONGEST_S, _FIRST_S * 2.0 ** min(rounds, 20))
        return longest * (0.5 + 0.5 * self._chance())

    def _patience_left(self, now: float) -> float:
        patience = self._patience if self.has_heard else self._first_patience
        return float("inf") if patience is None else self._patient_from + patience - now

    # Messages

    def _take(self) -> Envelope | None:
        """Return the first envelope that was received whole, and move the cursor after it."""
        while self._closing is None:
            line = self._buffer.take()
            if line is None:
                break
            try:
                envelope = self._receive(parse_message(line))
            except ForeignAnswer as error:
                raise NotAnswered(f"what answers is no kvserver: {error}") from None
            if envelope is not None:
                return envelope
        return None

    def _receive(self, message: Message) -> Envelope | None:
        if message["type"] == "error":
            raise error_in(message)
        cursor = message.get("cursor")
        if not isinstance(cursor, str):
            return None
        if message["type"] == "gap" and message.get("snapshot") is False and self._on_gap == "raise":
            gap = Gap(f"{message.get('reason')}: the feed can continue at {cursor}, but not after {self.cursor}")
            gap.reason, gap.cursor = str(message.get("reason")), cursor
            raise gap
        changes = changes_in(message, self._below)
        for change in changes:
            if isinstance(change, Reset):
                self._has_begun = True
            elif isinstance(change, Synced) and not self._has_begun:  # a snapshot without a key has no page
                self._has_begun = True
                changes = (Reset("start", True), *changes)
        self.cursor = cursor
        if message["type"] == "closing":
            self._closing = message
        return Envelope(cursor, changes)


def is_passing(error: KVError) -> bool:
    """Return whether it is worth while to connect again after `error`."""
    if isinstance(error, Refused) and error.status is not None and error.status < 500:
        return error.status in _LATER
    return True
