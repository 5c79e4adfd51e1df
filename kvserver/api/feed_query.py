"""The query of a client of `/v1/feed`: the parameters of its URL. Pure."""

from __future__ import annotations

from typing import Final, NamedTuple, get_args

from kvserver.api import query
from kvserver.api.query import FLAG, KEY, Kind, Parameter, whole_number
from shards.wire.errors import BadRequest
from shards.wire.protocol import Cause

MOST_SELECTED: Final = 64
"""Prefixes and keys of a feed, together."""
LONGEST_WAIT_S: Final = 55
"""Of a poll: proxies and clients commonly give up after 60 s."""

CAUSES: Final[tuple[Cause, ...]] = get_args(Cause)
OPS: Final = frozenset(("put", "touch", *(f"delete:{cause}" for cause in CAUSES)))
"""Every kind of event; deletes have their cause."""

_OP = "put|touch|delete(:(" + "|".join(CAUSES) + "))?"


class FeedQuery(NamedTuple):
    """What a client of `/v1/feed` asks for.

    Attributes:
        prefixes: selects all keys that start with one of them.
        keys: selects these keys too.
        ops: kinds of events, of `OPS`.
        values: events and items carry values; otherwise sizes.
        activity: also requests that change nothing.
        since: the cursor to continue after, unchecked; None without one.
        snapshot: the state first.
        conflate: of each key only the latest event, where the client is behind.
        wait_s: how long a poll may wait for an event.
        ticket: sent instead of a token; None without one.
    """

    prefixes: tuple[bytes, ...] = (b"",)
    ops: frozenset[str] = OPS
    values: bool = True
    activity: bool = False
    since: bytes | None = None
    snapshot: bool = False
    conflate: bool = False
    wait_s: int = 0
    ticket: bytes | None = None
    keys: tuple[bytes, ...] = ()


def parse_feed_query(text: bytes) -> FeedQuery:
    """Parse the query string of a feed request. Raises `BadRequest`."""
    given = query.parse(text, FEED)
    keys = tuple(given.pop("key", ()))
    prefixes = tuple(given.pop("prefix", () if keys else (b"",)))
    if len(prefixes) + len(keys) > MOST_SELECTED:
        raise BadRequest(f"expected at most {MOST_SELECTED} prefixes and keys")
    since = given.pop("since", None) or None
    return FeedQuery(prefixes, wait_s=given.pop("wait", 0), since=since, keys=keys, **given)


def _read_ops(text: str) -> frozenset[str]:
    wanted: set[str] = set()
    for op in text.split(","):
        found = {known for known in OPS if known == op or (op == "delete" and known.startswith("delete:"))}
        if not found:
            raise BadRequest(f"expected put, touch, delete or delete:<cause>; causes are {', '.join(CAUSES)}")
        wanted |= found
    return frozenset(wanted)


def _read_opaque(text: str) -> bytes:
    return text.encode("ascii", "replace")  # what is not ASCII is no cursor and no ticket


def _read_key(text: str) -> bytes:
    key: bytes = KEY.read(text)
    if not key:
        raise BadRequest("expected a key of 1 to 511 bytes")
    return key


_LIST: Final = Kind(_read_ops, {"type": "string", "pattern": f"^({_OP})(,({_OP}))*$"})
_YES_BY_DEFAULT: Final = Kind(FLAG.read, {"type": "boolean", "default": True})
_OPAQUE: Final = Kind(_read_opaque, {"type": "string"})
_WHOLE_KEY: Final = Kind(_read_key, {**KEY.schema, "minLength": 1})

FEED: Final = query.table(
    Parameter("prefix", KEY, "Only keys that begin with this. May be given several times.", MOST_SELECTED),
    Parameter(
        "key",
        _WHOLE_KEY,
        "Only this key. May be given several times, and with `prefix`: all of them add up, at most 64.",
        MOST_SELECTED,
    ),
    Parameter("ops", _LIST, "Only these events: `put`, `touch`, `delete`, and deletes of one cause: `delete:expire`."),
    Parameter("values", _YES_BY_DEFAULT, "Send values; if false, their sizes."),
    Parameter("activity", FLAG, "Also requests that change nothing: reads, lists, deletes of absent keys, heartbeats."),
    Parameter("since", _OPAQUE, "Continue after this cursor; empty counts as absent. `Last-Event-ID` overrides it."),
    Parameter("snapshot", FLAG, "The state first, then changes, unless the feed can continue after a cursor."),
    Parameter("conflate", FLAG, "If the client is behind, send only the latest put or delete of each key."),
    Parameter("wait", whole_number(0, LONGEST_WAIT_S), "Seconds that a poll may wait for an event."),
    Parameter("ticket", _OPAQUE, "A ticket instead of a token, where no header can be sent."),
)
"""The parameters of `/v1/feed`."""
