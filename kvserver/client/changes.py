"""What a watch yields: one class for each kind of change. Pure.

`match` works on them:

    for change in watch:
        match change:
            case Put(key=key, value=value): ...
            case Delete(key=key): ...
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from kvserver.client.model import Entry

Origin = Literal["live", "snapshot"]
"""Where a `Put` comes from: it happened just now, or it is part of the state that a snapshot repeats."""
Cause = Literal["request", "prefix", "expire", "evict"]
"""Why a key was deleted: a request for the key, or for a prefix; its time was over; the memory limit."""


@dataclass(frozen=True)
class Put:
    """A key has a value now.

    Attributes:
        value: None in a watch without values.
        size: of the value, in bytes.
        time: when it was written.
        expires: None for a value that never does.
    """

    key: str
    value: bytes | None
    size: int
    revision: int
    time: datetime
    content_type: str
    expires: datetime | None
    origin: Origin

    @property
    def text(self) -> str:
        """The value as UTF-8 text. Raises `UnicodeDecodeError`, and `ValueError` in a watch without values."""
        return self._bytes().decode()

    def json(self) -> Any:
        """Return the value parsed as JSON. Raises `ValueError`."""
        return json.loads(self._bytes())

    @property
    def entry(self) -> Entry:
        """The key as `get` returns it. Raises `ValueError` in a watch without values."""
        return Entry(self.key, self._bytes(), self.revision, self.content_type, self.expires, self.time)

    def _bytes(self) -> bytes:
        if self.value is None:
            raise ValueError("this watch was opened with values=False")
        return self.value


@dataclass(frozen=True)
class Touch:
    """A key's expiry changed, and nothing else. `expires` is None for never."""

    key: str
    revision: int
    time: datetime
    expires: datetime | None


@dataclass(frozen=True)
class Delete:
    """A key is gone."""

    key: str
    revision: int
    time: datetime
    cause: str


@dataclass(frozen=True)
class Reset:
    """Forget what you know: the state follows, up to `Synced`. With `snapshot=False` changes are missing, and no state.

    Attributes:
        reason: `start` of a snapshot, or why the feed cannot continue: `trimmed`, `epoch`, `bad_cursor`.
    """

    reason: str
    snapshot: bool


@dataclass(frozen=True)
class Synced:
    """The snapshot is whole: what was not repeated since the last `Reset` is gone."""

    cursor: str


@dataclass(frozen=True)
class Activity:
    """A request that changed nothing.

    Attributes:
        op: `read`, `list`, `list_prefix`, `delete`, `delete_prefix`, `delete_all` or `heartbeat`.
        subject: the key, prefix or address; empty if it has none.
    """

    op: str
    subject: str
    time: datetime


Change = Put | Touch | Delete | Reset | Synced | Activity
"""What a watch yields."""


@dataclass(frozen=True)
class Envelope:
    """The changes of one message of the feed, in order. An atomic batch is never divided; there may be no change.

    Attributes:
        cursor: hand it to `watch(since=)` to continue after these changes.
    """

    cursor: str
    changes: tuple[Change, ...]


@dataclass(frozen=True)
class Connected:
    """The watch is connected.

    Attributes:
        cursor: after which it continues; None at its beginning.
    """

    cursor: str | None


@dataclass(frozen=True)
class Waiting:
    """The watch lost its connection, and connects again in `seconds`.

    Attributes:
        error: why.
    """

    error: Exception
    seconds: float


@dataclass(frozen=True)
class Ended:
    """The mirror ended, and is not kept up to date any more.

    Attributes:
        error: why.
    """

    error: Exception


State = Connected | Waiting | Ended
"""The argument of `on_state`. Only mirrors pass `Ended`: a watch raises instead."""
