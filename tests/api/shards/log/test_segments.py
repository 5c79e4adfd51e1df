"""Segments are made ahead, used again and trimmed, but not what somebody needs."""

from __future__ import annotations

import errno

from shards.files.disk import Disk
from shards.log.appender import LogAppender
from shards.log.files import segment_name, segment_numbers
from shards.log.segments import Segments, trim_limit
from tests.api.shards.log.tools import NOW, SEGMENT, fill, names
from tests.stores import Store


def test_a_segment_is_kept_ready_ahead(store: Store, log: LogAppender) -> None:
    assert store.segments.prepare_next()
    assert store.board.log.ready == 2 * SEGMENT
    assert not store.segments.prepare_next(), "a whole one is ready"
    fill(store, log, 1)
    assert store.segments.prepare_next()
    assert store.board.log.ready == 3 * SEGMENT == store.segments.count() * SEGMENT
    assert (store.log_dir / segment_name(2)).read_bytes() == bytes(SEGMENT)
    assert not list(store.log_dir.glob("*.new"))


def test_the_last_segment_and_what_reaches_above_are_never_trimmed(store: Store, log: LogAppender) -> None:
    fill(store, log, 2)
    assert store.segments.trim(SEGMENT - 1) == 0
    assert store.segments.trim(1 << 40) == store.board.log.ready // SEGMENT - 1
    assert store.segments.count() == 1


def test_what_a_restart_a_backup_or_the_feed_needs_is_not_trimmed() -> None:
    assert trim_limit(1000, 900, 300) == 700
    assert trim_limit(1000, 500, 300) == 500
    assert trim_limit(1000, 900, 300, (100, 800)) == 100
    assert trim_limit(100, 90, 300) == 0


def test_on_a_full_disk_the_feed_gives_up_what_no_restart_needs(store: Store, log: LogAppender) -> None:
    fill(store, log, 3)
    words = store.board.log

    def no_space(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space")

    segments = Segments(store.board, segment=SEGMENT, disk=Disk())
    segments._disk.allocate = no_space  # type: ignore[method-assign]
    while words.ready - store.board.history()[0] >= SEGMENT:
        log.append(bytes(5000), 1, NOW)
    assert not segments.prepare_next() and words.full
    assert not segments.prepare_next(lambda: SEGMENT - 1) and words.full, "a restart needs the first"
    assert segments.prepare_next(lambda: 2 * SEGMENT + 1) and not words.full
    assert segment_numbers(names(store.log_dir)) == [2, 3, 4]
    assert words.oldest == 2 * SEGMENT
