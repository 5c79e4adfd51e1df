"""What of the history one client gets to see: what it wants, as far as it may. Pure."""

from __future__ import annotations

from binascii import crc32
from typing import NamedTuple

from kvserver.access.grants import Grants
from kvserver.gateway.events import Event
from kvserver.wishes import OPS, Wish
from shards.protocol import Activity


class Filter(NamedTuple):
    """Decides on each event by itself.

    Attributes:
        prefixes: of the keys that are shown, in byte order, none inside another.
        ops: of `wishes.OPS`; None: all.
        values: whether they are shown.
        activity: whether it is shown.
        heartbeats: whether those are.
        crc: of what is wanted and granted: a place in a snapshot is worth nothing under another.
        name: the same for filters that show the same.
    """

    prefixes: tuple[bytes, ...]
    ops: frozenset[str] | None
    values: bool
    activity: bool
    heartbeats: bool
    crc: int
    name: str

    def covers(self, key: bytes) -> bool:
        """Whether `key` is one of those that are shown."""
        return key.startswith(self.prefixes)

    def shows(self, event: Event) -> bool:
        """Whether an event is shown, as event or, if it is a mark, as activity."""
        if not event.key.startswith(self.prefixes):
            return False
        if event.op == "mark":
            return self.activity
        return self.ops is None or event.op in self.ops

    def shows_line(self, line: Activity) -> bool:
        """Whether a line of activity is shown; of a prefix only if all of it may be seen."""
        return self.heartbeats if line.kind == "heartbeat" else line.subject.startswith(self.prefixes)


def filter_of(wish: Wish, grants: Grants) -> Filter:
    """What the bearer of `grants` sees of what it wishes. Raises `Forbidden` if that can never be anything."""
    parts = [part for prefix in wish.prefixes for part in grants.within("feed", prefix)]
    if not parts:
        grants.require_all("feed", wish.prefixes[0])
    prefixes = _outermost(parts)
    heartbeats = wish.activity and grants.may_all("admin", b"")
    ops = None if wish.ops == OPS else wish.ops
    name = repr((prefixes, sorted(ops or ()), wish.values, wish.activity, heartbeats))
    return Filter(prefixes, ops, wish.values, wish.activity, heartbeats, _crc(wish, grants), name)


def _outermost(prefixes: list[bytes]) -> tuple[bytes, ...]:
    result: list[bytes] = []
    for prefix in sorted(prefixes):
        if not result or not prefix.startswith(result[-1]):
            result.append(prefix)
    return tuple(result)


def _crc(wish: Wish, grants: Grants) -> int:
    crc = grants.fingerprint()
    for prefix in _outermost(list(wish.prefixes)):
        crc = crc32(b"%d:%b" % (len(prefix), prefix), crc)
    return crc
