"""What tests of one map share."""

from __future__ import annotations

from shards.maps.layout import Identity
from shards.maps.owner import MapOwner
from shards.wire.protocol import Event
from tests.api.maps import record_of

IDENTITY = Identity(format=1, store="s", epoch="e", boot_id="b", shard=0, shards=1)


def apply(
    map: MapOwner, *events: Event, revision: int, time_ms: int = 1000, previous: tuple[int, ...] = ()
) -> dict[int, tuple[bytes, str, int]]:
    return map.apply_changes(events, record_of(events, revision, revision * 1000, time_ms), previous)
