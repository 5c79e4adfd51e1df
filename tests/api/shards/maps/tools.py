"""What tests of maps and of their directory share."""

from __future__ import annotations

from pathlib import Path

import msgspec

from shards.log.manifest import Manifest
from shards.maps.directory.choose import choose_map_dir
from shards.maps.layout import Identity
from shards.maps.owner import MapOwner
from shards.wire.protocol import Event
from tests.api.maps import record_of

STORE = "0123abcd"
IDENTITY = Identity(format=1, store="s", epoch="e", boot_id="b", shard=0, shards=1)


def apply(
    map: MapOwner, *events: Event, revision: int, time_ms: int = 1000, previous: tuple[int, ...] = ()
) -> dict[int, tuple[bytes, str, int]]:
    return map.apply_changes(events, record_of(events, revision, revision * 1000, time_ms), previous)


def store_in(directory: Path, store: str) -> Path:
    """`directory`, which is made if it is missing, with the store `store`."""
    directory.mkdir(exist_ok=True)
    msgspec.structs.replace(Manifest.create(directory), store=store).save(directory)
    return directory


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def leave(shm: Path, data: Path | None, store: str) -> Path:
    """The directory that a server which is gone has left."""
    left = choose_map_dir(None, data, store, shm=shm)
    (left.path / "shard-0.1").mkdir()
    left.close()
    return left.path
