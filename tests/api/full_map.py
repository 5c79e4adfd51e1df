"""Fills a map on a small file system, which the caller has mounted: `python -m tests.api.full_map DIRECTORY`.

In a process of its own, because mounting needs a name space of its own.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from shards.maps.layout import MapFull
from shards.maps.owner import MapOwner
from shards.maps.space import BALLAST_BYTES
from tests.api.maps import delete, put, record_of


def main(directory: Path) -> None:
    """Fill, delete, fill: each step as the rules say. Raises `AssertionError`."""
    (directory / "map").mkdir()
    map = MapOwner(directory / "map", directory / "ballast")
    assert not map.storage.full
    revision, keys = 1, []

    def write(*events: object) -> None:
        nonlocal revision
        map.apply([record_of(events, revision, revision * 1000)])  # type: ignore[arg-type]
        revision += len(events)

    while not map.storage.full:
        keys.append(b"key-%d" % len(keys))
        write(put(keys[-1], bytes(100_000)))
    filled = len(keys) * 100_000
    assert filled > (64 << 20) - BALLAST_BYTES - (8 << 20), f"dropped at {filled}"
    assert map.get(keys[-1], 0) is not None, "what did not fit before the ballast was dropped is there"
    assert not map.storage.restore_ballast()

    try:
        while True:
            keys.append(b"key-%d" % len(keys))
            before = (map.applied, revision)
            write(put(keys[-1], bytes(1_000_000)))
    except MapFull as error:
        print(f"full: {error}")
    assert (map.applied, revision) == before, "nothing of what did not fit is applied"
    assert map.get(keys.pop(), 0) is None
    assert os.statvfs(directory).f_bavail * 4096 < 2 << 20
    assert map.totals.keys == len(keys)

    spare = map.storage.spare_bytes()
    for key in keys[:100]:
        write(delete(key))
    assert map.storage.spare_bytes() > spare + 9_000_000, "what is deleted is room in the map"
    for n in range(50):
        write(put(b"small-%d" % n, bytes(1000)))
    map.check(1, 0)
    assert map.storage.full, "it cannot be restored: LMDB gives nothing back"
    assert not map.storage.restore_ballast()
    map.close()
    print("all is well")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
