"""What tests of the log share: a small segment, records that fill some, damage."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shards.log.appender import LogAppender
from shards.log.files import segment_name
from shards.log.records import Record
from shards.log.recovery import recover_log
from tests.stores import SECRET, Store
from tests.times import at

SEGMENT = 64 << 10


NOW = at(1_900_000_000_000)  # later than any START here


def wait_for(condition: Callable[[], Any], what: str) -> None:
    give_up_at = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < give_up_at, what
        time.sleep(0.005)


def fill(store: Store, log: LogAppender, segments: int) -> list[Record]:
    """Append until the log ends in segment number `segments`, the supervisor's duties done between."""
    written = []
    while store.board.history()[0] < segments * SEGMENT:
        store.segments.prepare_next()
        written.append(log.append(b"%d " % len(written) + os.urandom(5000), 2, NOW))
        log.flush(written[-1].end)
    return written


def read_all(store: Store, lsn: int = 0, limit: int = 256 << 10) -> list[Record]:
    reader, found = store.reader(), list[Record]()
    tail, _ = store.board.history()
    while lsn < tail:
        some, lsn = reader.read(lsn, tail, limit)
        found += some
    assert lsn == tail
    reader.close()
    return found


def names(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


def change_byte(store: Store, lsn: int) -> None:
    with (store.log_dir / segment_name(lsn // SEGMENT)).open("r+b") as file:
        file.seek(lsn % SEGMENT)
        byte = file.read(1)[0]
        file.seek(lsn % SEGMENT)
        file.write(bytes([byte ^ 1]))


def recovered(store: Store, **more: Any) -> Any:
    return recover_log(store.log_dir, SECRET, 0, 0, segment=SEGMENT, **more)
