"""Views: what clients of `/wal` see, by their grants. Pure.

Clients with the same format and the same grants share a view, and every frame that is encoded for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from kvserver.access.grants import Grants
from kvserver.gateway.wal.formats import delete_line
from shards.wire.protocol import Activity, Change, DeleteEvent, PrefixMarked, PutEvent

Encode = Callable[[bytes], bytes]
"""Makes a WebSocket frame of a line."""


class View(NamedTuple):
    """A format, and what is shown in it.

    Attributes:
        encode: of the format.
        prefixes: of the keys whose lines are shown.
        heartbeats: whether heartbeats are shown, with the addresses of clients.
    """

    encode: Encode
    prefixes: tuple[bytes, ...] = (b"",)
    heartbeats: bool = True

    @classmethod
    def of(cls, encode: Encode, grants: Grants) -> View:
        """Make the view of a client with `grants`."""
        return cls(encode, grants.feed, grants.may_all("admin", b""))

    @property
    def is_whole(self) -> bool:
        """Whether every change is shown."""
        return self.prefixes == (b"",)

    def line_of(self, change: Change, line: bytes | None, marks: Marks) -> bytes | None:
        """Return the line that shows `change` in this view; None: it is not shown. `line`: that of a whole view.

        A key that was deleted with its prefix has a line of its own where the line of the prefix was not shown, or may
        not have been.
        """
        if self.is_whole:
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
        """Whether a line of activity is shown."""
        if activity.kind == "heartbeat":
            return self.heartbeats
        subject = b"" if activity.kind in ("list", "delete_all") else activity.subject
        return subject.startswith(self.prefixes)


class Marks:
    """The prefix deletes seen last: the prefix, by the revision of its mark."""

    def __init__(self, most: int = 1024) -> None:
        self._most = most
        self._prefixes: dict[int, bytes] = {}

    def note(self, revision: int, prefix: bytes) -> None:
        """Note that the mark of `prefix` is at `revision`."""
        self._prefixes[revision] = prefix
        if len(self._prefixes) > self._most:
            del self._prefixes[next(iter(self._prefixes))]

    def prefix(self, revision: int) -> bytes | None:
        """Return the prefix of the mark at `revision`; None if it is not known any more, or never was."""
        return self._prefixes.get(revision)
