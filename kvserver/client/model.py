"""What the client's methods take and return: plain frozen classes. Pure."""

from __future__ import annotations

import enum
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, Literal


class Unchanged(enum.Enum):
    """Type of `UNCHANGED`."""

    UNCHANGED = "unchanged"


class Unset(enum.Enum):
    """Type of `UNSET`."""

    UNSET = "unset"


class Next(enum.Enum):
    """What the function given to `update` may return instead of a value."""

    KEEP = "keep"
    DELETE = "delete"


UNCHANGED: Final = Unchanged.UNCHANGED
"""`get_if_changed` found the revision that it was asked about."""
UNSET: Final = Unset.UNSET
"""An argument that was not given; None is a JSON value."""
KEEP: Final = Next.KEEP
"""Of `update`: leave the key as it is; as `ttl`, leave its expiry."""
DELETE: Final = Next.DELETE
"""Of `update`: delete the key."""

Value = bytes | bytearray | memoryview | str
"""Bytes, or text, which is stored as UTF-8."""
Ttl = float | timedelta
"""A time to live in seconds, or as a timedelta."""
Expires = datetime | str
"""A point in time: a datetime with a time zone, or text as in RFC 3339."""


@dataclass(frozen=True)
class Options:
    """How a client sends its requests.

    `timeout`: seconds for one answer, in all; `patience`: seconds during which a failed request is repeated, if that is
    safe; `idempotency`: send an Idempotency-Key with each write, so that every write may be repeated.
    """

    timeout: float = 10.0
    patience: float = 5.0
    idempotency: bool = True

    def __post_init__(self) -> None:
        """Raise `ValueError` for what is no time."""
        if not (math.isfinite(self.timeout) and self.timeout > 0):
            raise ValueError(f"timeout is a number of seconds above 0, not {self.timeout}")
        if not self.patience >= 0:
            raise ValueError(f"patience is a number of seconds, 0 or more, not {self.patience}")


@dataclass(frozen=True)
class Entry:
    """A key's value and what is known of it.

    `expires` is None for a value that never does; `modified` is None where the server does not tell it (batches).
    """

    key: str
    value: bytes
    revision: int
    content_type: str
    expires: datetime | None = None
    modified: datetime | None = None

    @property
    def text(self) -> str:
        """The value as UTF-8 text. Raises `UnicodeDecodeError`."""
        return self.value.decode()

    def json(self) -> Any:
        """Return the value parsed as JSON. Raises `ValueError`."""
        return json.loads(self.value)

    @property
    def etag(self) -> str:
        """The entity tag, as HTTP has it."""
        return f'"{self.revision}"'


@dataclass(frozen=True)
class Meta:
    """What is known of a key, without its value. `size` is in bytes."""

    key: str
    size: int
    revision: int
    content_type: str
    expires: datetime | None = None
    modified: datetime | None = None


@dataclass(frozen=True)
class Written:
    """A write that was done. `created`: the key was absent before."""

    revision: int
    created: bool = False


@dataclass(frozen=True)
class Exchanged:
    """A value that was put, and the one that it replaced: None if there was none."""

    revision: int
    previous: Entry | None


@dataclass(frozen=True)
class Patched:
    """The JSON value after a merge patch."""

    revision: int
    value: Any


@dataclass(frozen=True)
class Item:
    """A key in a list. `value` is None unless it was asked for; `size` is in bytes."""

    key: str
    revision: int
    size: int
    content_type: str
    expires: datetime | None = None
    created: datetime | None = None
    modified: datetime | None = None
    value: bytes | None = None


@dataclass(frozen=True)
class Page:
    """One page of a list.

    `prefixes`: what the delimiter folds; `next`: hand it to `after` (with `reverse` to `before`) for the next page,
    None at the end; `cursor`: hand it to `watch(since=)` to miss nothing that happens after the page was read.
    """

    items: Sequence[Item]
    prefixes: Sequence[str]
    next: str | None
    cursor: str


@dataclass(frozen=True)
class Deleted:
    """What a prefix delete did.

    `complete` is false only where `limit` ended it; `cut` is the revision up to which it deletes.
    """

    count: int
    complete: bool
    cut: int


@dataclass(frozen=True)
class Loaded:
    """How many entries `put_many` stored."""

    stored: int


@dataclass(frozen=True)
class Ticket:
    """A password for one connection to the feed, for browsers. Use it at once."""

    ticket: str = field(repr=False)
    expires: datetime | None


@dataclass(frozen=True)
class Grant:
    """What a token may do with the keys below a prefix: `read`, `write`, `feed`, `admin`."""

    prefix: str
    allow: Sequence[str]


@dataclass(frozen=True)
class Identity:
    """Whose token the client sends: None where the server needs no token."""

    name: str | None
    grants: Sequence[Grant]


@dataclass(frozen=True)
class Status:
    """The state of the server. `raw` is all that it tells; see the description of GET /v1/status."""

    version: str
    store: str
    epoch: str
    revision: int
    oldest: int
    uptime_s: float
    raw: Mapping[str, Any]


TicketFor = Literal["sse", "websocket", "kv"]
