"""What clients of `/wal` see, by what their token grants. Pure.

Clients of the same format with the same grants share a view, and all that is encoded for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from kvserver.access.grants import Grants
from kvserver.gateway.wal.formats import delete_line
from shards.wire.protocol import Activity, Change, DeleteEvent, PrefixMarked, PutEvent

Encode = Callable[[bytes], bytes]
"""From a line to a WebSocket frame."""


class View(NamedTuple):
    """A format, and what is shown in it.

    Attributes:
        prefixes: of the keys whose lines are shown.
        heartbeats: whether the addresses of clients are.
    """

    encode: Encode
    prefixes: tuple[bytes, ...] = (b"",)
    heartbeats: bool = True

    @classmethod
    def of(cls, encode: Encode, grants: Grants) -> View:
        """What the bearer of `grants` sees."""
        return cls(encode, grants.feed, grants.may_all("admin", b""))

    @property
    def whole(self) -> bool:
        """Whether every change is shown."""
        return self.prefixes == (b"",)

    def line_of(self, change: Change, line: bytes | None, marks: Marks) -> bytes | None:
        """What is shown of `change`, whose line is `line` for who sees everything; None: nothing.

        A key that goes with its prefix has a line of its own where the line of the prefix was not shown, or may not
        have been.
        """
        if self.whole:
            return line
        match change:
            case PutEvent(key=name) | DeleteEvent(key=name, cut=0) | PrefixMarked(prefix=name):
                return line if name.startswith(self.prefixes) else None
            case DeleteEvent(key=key, cut=cut) if key.startswith(self.prefixes):
                prefix = marks.prefix(cut)
                is_told = prefix is not None and prefix.startswith(self.prefixes)
                return None if is_told else delete_line(key)
            case _:
                return None

    def shows(self, activity: Activity) -> bool:
        """Whether a line of something that changed nothing is shown."""
        if activity.kind == "heartbeat":
            return self.heartbeats
        subject = b"" if activity.kind in ("list", "delete_all") else activity.subject
        return subject.startswith(self.prefixes)


class Marks:
    """The prefix deletes seen last: which prefix, by the revision of the mark."""

    def __init__(self, most: int = 1024) -> None:
        self._most = most
        self._prefixes: dict[int, bytes] = {}

    def note(self, revision: int, prefix: bytes) -> None:
        """A mark of `prefix` was seen at `revision`."""
        self._prefixes[revision] = prefix
        if len(self._prefixes) > self._most:
            del self._prefixes[next(iter(self._prefixes))]

    def prefix(self, revision: int) -> bytes | None:
        """The prefix of the mark at `revision`; None if that is not known any more, or never was."""
        return self._prefixes.get(revision)
