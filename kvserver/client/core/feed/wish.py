"""What a watch asks for, as the target of its request. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from kvserver.client.core.paths import with_query
from kvserver.client.errors import BadRequest

FEED: Final = "/v1/feed"
LINES: Final = "application/x-ndjson"
"""The media type of a feed in lines of JSON."""
SILENCE_S: Final = 25.0
"""After so long without a byte a connection is dead: the server sends something every 10 seconds."""
MOST_SELECTED: Final = 64
"""Prefixes and keys of a watch, together."""


@dataclass(frozen=True)
class Wish:
    """What a watch asks for.

    Attributes:
        prefixes: selects all keys that begin with one of them; without prefixes and keys, all keys.
        keys: selects these keys too.
        snapshot: the state first, then changes.
        ops: kinds of changes, like `put` and `delete:expire`; empty for all.
        values: changes carry values.
        activity: also requests that change nothing.
        conflate: when the watch is behind, only the latest change of each key.
    """

    prefixes: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    snapshot: bool = False
    ops: tuple[str, ...] = ()
    values: bool = True
    activity: bool = False
    conflate: bool = False

    def target(self, since: str | None) -> str:
        """Return the target of the request that continues after `since`.

        It asks for a snapshot also with a cursor: the server then sends one where it cannot continue.
        """
        return with_query(
            FEED,
            [
                *(("prefix", prefix) for prefix in self.prefixes),
                *(("key", key) for key in self.keys),
                ("ops", ",".join(self.ops) or None),
                ("values", None if self.values else "false"),
                ("activity", "true" if self.activity else None),
                ("conflate", "true" if self.conflate else None),
                ("snapshot", "true" if self.snapshot else None),
                ("since", since),
            ],
        )


def wish_of(
    prefixes: Iterable[str],
    keys: Iterable[str],
    *,
    below: str = "",
    snapshot: bool = False,
    ops: str | Iterable[str] | None = None,
    values: bool = True,
    activity: bool = False,
    conflate: bool = False,
) -> Wish:
    """Return the wish of a watch whose client works below the prefix `below`.

    Raises `BadRequest` for too many prefixes and keys, `TypeError` for one text where several are wanted.
    """
    if isinstance(keys, str):
        raise TypeError(f"keys= takes several keys: keys=[{keys!r}]")
    full_keys = tuple(below + key for key in keys)
    full_prefixes = tuple(below + prefix for prefix in prefixes)
    if not full_prefixes and not full_keys and below:
        full_prefixes = (below,)
    if len(full_prefixes) + len(full_keys) > MOST_SELECTED:
        raise BadRequest(f"a watch has at most {MOST_SELECTED} prefixes and keys, not {len(full_prefixes + full_keys)}")
    wanted = () if ops is None else tuple(ops.split(",") if isinstance(ops, str) else ops)
    return Wish(full_prefixes, full_keys, snapshot, wanted, values, activity, conflate)
